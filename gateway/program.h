/*
 * program: runs an operator's program to its end, or for as long as it may take, and reads what it
 * says. It blocks: only helper threads may call it (law 7).
 *
 * The program gets /dev/null as standard input, a pipe to us as output, no other descriptor of ours
 * whether close-on-exec or not, the signals' defaults, the environment that is given and nothing
 * else. It is the leader of a process group; when it has ended, or is ended by us, whatever is left
 * of the group is killed, and is given LIMIT_FENCE_END_MS to be gone. A process that stays outside
 * the group and keeps the pipe does not matter: it is the leader's end that counts, not the pipe's.
 *
 * What it says is never waited for and bounded by nothing but its time: `said` bounds what it
 * keeps.
 */
#ifndef BLKGATE_GATEWAY_PROGRAM_H
#define BLKGATE_GATEWAY_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct program {
    char *const *argv; /* argv[0]: an absolute path */
    char *const *envp;
    uint32_t timeout_ms;
    void (*said)(void *arg, const char *line); /* a line of its output, long ones cut */
    bool (*is_cancelled)(void *arg);           /* looked at every moment */
    void *arg;
};

/* 0: it ended with status 0. Else -errno and a reason, with the last thing that it said: -EPROTO
 * another status or a signal, -ETIMEDOUT, -ECANCELED, or why it was not started. *ret_left is its
 * number if it, or others of its group, did not go away when they were killed, for program_is_gone;
 * 0: nothing is left. */
int program_run(const struct program *program, pid_t *ret_left, char *ret_reason,
                size_t reason_bytes);

/* Whether all of it has gone at last: a process that waits for a dead disk cannot be killed. Does
 * not wait, but reads /proc. Once this was true the number is no longer ours: ask no more. */
bool program_is_gone(pid_t left);

#endif
