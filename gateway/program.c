#include "gateway/program.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "proto/limits.h"

enum {
    LOOK_MS = 20, /* how soon an end, a cancellation or the deadline is seen */
    READ_BYTES = 4096,
    READS_PER_LOOK = 16, /* all that a pipe holds; more is read after the next look */
    LINE_BYTES = 512,
    LAST_BYTES = 96, /* of the last line: room for the rest of a reason */
};

struct run {
    const struct program *program;
    pid_t pid;
    int output;    /* the pipe's end; -1: nobody is at the other one */
    siginfo_t end; /* how it ended, once it has */
    size_t line_bytes;
    char line[LINE_BYTES];
    char last[LAST_BYTES];
};

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* -- what it says ---------------------------------------------------------------------------- */

static void end_line(struct run *run)
{
    run->line[run->line_bytes] = '\0';
    if (run->line_bytes > 0) {
        snprintf(run->last, sizeof run->last, "%.*s", LAST_BYTES - 1, run->line);
        run->program->said(run->program->arg, run->line);
    }
    run->line_bytes = 0;
}

static void take_output(struct run *run, const char *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (bytes[i] == '\n')
            end_line(run);
        else if (run->line_bytes < LINE_BYTES - 1)
            run->line[run->line_bytes++] = (char)(bytes[i] ? bytes[i] : ' ');
    }
}

static void read_output(struct run *run)
{
    char bytes[READ_BYTES];
    ssize_t got = 0;

    for (int i = 0; run->output >= 0 && i < READS_PER_LOOK; i++) {
        got = read(run->output, bytes, sizeof bytes);
        if (got > 0) {
            take_output(run, bytes, (size_t)got);
        } else if (got < 0 && errno == EINTR) {
            continue;
        } else if (got < 0 && errno == EAGAIN) {
            return;
        } else {
            close(run->output);
            run->output = -1;
        }
    }
}

/* -- its life -------------------------------------------------------------------------------- */

/* Only one end of the pipe is non-blocking: the program's must be as any program expects it. */
static int open_pipe(int ret_ends[static 2])
{
    if (pipe2(ret_ends, O_CLOEXEC) < 0)
        return -errno;
    if (fcntl(ret_ends[0], F_SETFL, O_NONBLOCK) < 0) {
        close(ret_ends[0]);
        close(ret_ends[1]);
        return -errno;
    }
    return 0;
}

static int plan_descriptors(posix_spawn_file_actions_t *actions, int output)
{
    int err = posix_spawn_file_actions_addopen(actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);

    if (!err)
        err = posix_spawn_file_actions_adddup2(actions, output, STDOUT_FILENO);
    if (!err)
        err = posix_spawn_file_actions_adddup2(actions, STDOUT_FILENO, STDERR_FILENO);
#if __GLIBC_PREREQ(2, 34)
    if (!err) /* all of ours are close-on-exec; a library's may not be */
        err = posix_spawn_file_actions_addclosefrom_np(actions, STDERR_FILENO + 1);
#endif
    return -err;
}

/* Our threads block the signals that main waits for, and SIGPIPE is ignored: not so its. */
static int plan_signals(posix_spawnattr_t *attributes)
{
    sigset_t none;
    sigset_t all;
    int err;

    sigemptyset(&none);
    sigfillset(&all);
    err = posix_spawnattr_setsigmask(attributes, &none);
    if (!err)
        err = posix_spawnattr_setsigdefault(attributes, &all);
    if (!err)
        err = posix_spawnattr_setpgroup(attributes, 0);
    if (!err)
        err = posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                                       POSIX_SPAWN_SETPGROUP);
    return -err;
}

static int spawn(struct run *run, int output)
{
    const struct program *program = run->program;
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    int err = -posix_spawn_file_actions_init(&actions);

    if (err < 0)
        return err;
    err = -posix_spawnattr_init(&attributes);
    if (err < 0)
        goto destroy_actions;
    err = plan_descriptors(&actions, output);
    if (err == 0)
        err = plan_signals(&attributes);
    if (err == 0)
        err = -posix_spawn(&run->pid, program->argv[0], &actions, &attributes, program->argv,
                           program->envp);
    posix_spawnattr_destroy(&attributes);
destroy_actions:
    posix_spawn_file_actions_destroy(&actions);
    return err;
}

static int start(struct run *run)
{
    int ends[2];
    int err = open_pipe(ends);

    if (err < 0)
        return err;
    err = spawn(run, ends[1]);
    close(ends[1]);
    if (err < 0) {
        close(ends[0]);
        return err;
    }
    run->output = ends[0];
    return 0;
}

/* It stays a zombie, which keeps its number, and so its group's, from meaning a stranger. */
static int has_ended(pid_t pid, siginfo_t *ret_end)
{
    *ret_end = (siginfo_t){0};
    if (waitid(P_PID, (id_t)pid, ret_end, WEXITED | WNOHANG | WNOWAIT) < 0)
        return errno == EINTR ? 0 : -errno;
    return ret_end->si_pid == pid;
}

static void look_later(const struct run *run)
{
    struct pollfd output = {.fd = run->output, .events = POLLIN}; /* -1: only the time counts */

    poll(&output, 1, LOOK_MS);
}

/* 0: it has ended by itself. */
static int wait_for_end(struct run *run)
{
    const uint64_t deadline_ms = now_ms() + run->program->timeout_ms;

    for (;;) {
        int ended = has_ended(run->pid, &run->end);

        read_output(run); /* after the question: all that it said before its end */
        if (ended != 0)
            return ended < 0 ? ended : 0;
        if (run->program->is_cancelled(run->program->arg))
            return -ECANCELED;
        if (now_ms() >= deadline_ms)
            return -ETIMEDOUT;
        look_later(run);
    }
}

/* Is it a process of that group, and not one that is dead and that nobody has reaped? */
static bool lives_in(const char *pid, pid_t group)
{
    enum { GROUP = 5, THREADS = 20, FIELDS }; /* proc(5) */
    char path[64], text[512] = "", *rest;
    long field[FIELDS] = {0};
    FILE *in;
    bool dead;

    snprintf(path, sizeof path, "/proc/%.20s/stat", pid);
    in = fopen(path, "re");
    if (!in)
        return errno != ENOENT && errno != ESRCH; /* if it cannot be known: yes */
    rest = fgets(text, sizeof text, in) ? strrchr(text, ')') : NULL;
    fclose(in);
    if (!rest || strlen(rest) < 4)
        return false;
    dead = rest[2] == 'Z' || rest[2] == 'X'; /* of several threads only the first, perhaps */
    rest += 3;
    for (unsigned i = GROUP - 1; i < FIELDS; i++)
        field[i] = strtol(rest, &rest, 10);
    return field[GROUP] == group && (!dead || field[THREADS] > 1);
}

static bool group_lives(pid_t group)
{
    const struct dirent *entry;
    bool lives = false;
    DIR *processes;

    if (kill(-group, 0) < 0 && errno == ESRCH)
        return false;
    processes = opendir("/proc");
    if (!processes)
        return true;
    while (!lives && (entry = readdir(processes)))
        lives =
            entry->d_name[0] >= '1' && entry->d_name[0] <= '9' && lives_in(entry->d_name, group);
    closedir(processes);
    return lives;
}

/* Reaps it if nothing of it and its group lives. */
static bool is_left(pid_t pid)
{
    siginfo_t end;

    if (has_ended(pid, &end) == 0 || group_lives(pid))
        return true;
    while (waitpid(pid, NULL, WNOHANG) < 0 && errno == EINTR)
        ;
    return false;
}

/* Kills it and its group, and reaps it. False: not all of it goes away. */
static bool end(struct run *run)
{
    const uint64_t deadline_ms = now_ms() + LIMIT_FENCE_END_MS;
    bool left;

    kill(-run->pid, SIGKILL);
    kill(run->pid, SIGKILL); /* it may have gone into another group */
    if (run->output >= 0)
        close(run->output);
    run->output = -1;
    while ((left = is_left(run->pid)) && now_ms() < deadline_ms)
        look_later(run);
    return !left;
}

/* -- what came of it ------------------------------------------------------------------------- */

static int judge(const struct run *run, int err, char *ret_reason, size_t reason_bytes)
{
    const char *name = run->program->argv[0];
    const char *colon = run->last[0] ? ": " : "";

    if (err == -ETIMEDOUT)
        snprintf(ret_reason, reason_bytes, "%.60s did not end within %u ms and was killed%s%s",
                 name, run->program->timeout_ms, colon, run->last);
    else if (err < 0)
        snprintf(ret_reason, reason_bytes, "%.60s: %s", name, strerror(-err));
    else if (run->end.si_code != CLD_EXITED)
        snprintf(ret_reason, reason_bytes, "%.60s was ended by signal %d%s%s", name,
                 run->end.si_status, colon, run->last);
    else if (run->end.si_status != 0)
        snprintf(ret_reason, reason_bytes, "%.60s ended with status %d%s%s", name,
                 run->end.si_status, colon, run->last);
    else
        return 0;
    return err < 0 ? err : -EPROTO;
}

int program_run(const struct program *program, pid_t *ret_left, char *ret_reason,
                size_t reason_bytes)
{
    struct run run = {.program = program, .output = -1};
    int err = start(&run);

    *ret_left = 0;
    if (err < 0) {
        snprintf(ret_reason, reason_bytes, "%.60s cannot be run: %s", program->argv[0],
                 strerror(-err));
        return err;
    }
    err = wait_for_end(&run);
    if (!end(&run))
        *ret_left = run.pid;
    end_line(&run);
    return judge(&run, err, ret_reason, reason_bytes);
}

bool program_is_gone(pid_t left)
{
    return !is_left(left);
}
