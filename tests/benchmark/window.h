/* What processes spend between two moments: CPU time by their clocks, and where the kernel counts
 * them for us (perf events, as root), system calls. */
#ifndef WINDOW_H
#define WINDOW_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define WINDOW_PROCESSES_MAX 64
#define WINDOW_THREADS_MAX   1024

struct processes {
    unsigned count;
    pid_t pids[WINDOW_PROCESSES_MAX];
};

struct window {
    const struct processes *processes;
    unsigned nr_counters;
    int counters[WINDOW_THREADS_MAX]; /* a perf event of each thread */
    uint64_t start_cpu_ns, start_syscalls;
    uint64_t cpu_ns;  /* after window_close */
    int64_t syscalls; /* -1: not counted */
};

uint64_t clock_ns(void); /* CLOCK_MONOTONIC */

/* Counting slows every system call of the machine down: for runs that are not timed. False: a
 * process is gone. */
bool window_open(struct window *window, const struct processes *processes, bool count_syscalls);
bool window_close(struct window *window);

#endif
