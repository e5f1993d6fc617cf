#include "window.h"

#include <dirent.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_SECOND UINT64_C(1000000000)

static uint64_t timespec_ns(const struct timespec *time)
{
    return (uint64_t)time->tv_sec * NS_PER_SECOND + (uint64_t)time->tv_nsec;
}

uint64_t clock_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return timespec_ns(&now);
}

static bool cpu_read(const struct processes *processes, uint64_t *ret_ns)
{
    struct timespec used;
    clockid_t clock;
    unsigned i;

    *ret_ns = 0;
    for (i = 0; i < processes->count; i++) {
        if (clock_getcpuclockid(processes->pids[i], &clock) || clock_gettime(clock, &used))
            return false;
        *ret_ns += timespec_ns(&used);
    }
    return true;
}

/* The kernel's number of the event, or -1 where it cannot be counted. */
static long event_number(void)
{
    FILE *file = fopen("/sys/kernel/tracing/events/raw_syscalls/sys_enter/id", "re");
    long number = -1;

    if (file && fscanf(file, "%ld", &number) != 1)
        number = -1;
    if (file)
        fclose(file);
    return number;
}

static bool thread_count(struct window *window, long event, pid_t tid)
{
    struct perf_event_attr attr = {
        .type = PERF_TYPE_TRACEPOINT,
        .size = sizeof(attr),
        .config = (uint64_t)event,
        .inherit = 1, /* threads that it begins */
    };
    long fd = -1;

    if (window->nr_counters < WINDOW_THREADS_MAX)
        fd = syscall(SYS_perf_event_open, &attr, tid, -1, -1, PERF_FLAG_FD_CLOEXEC);
    if (fd >= 0)
        window->counters[window->nr_counters++] = (int)fd;
    return fd >= 0;
}

static bool process_count(struct window *window, long event, pid_t pid)
{
    struct dirent *entry;
    bool counted = true;
    char path[64];
    DIR *tasks;

    snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
    tasks = opendir(path);
    while (tasks && counted && (entry = readdir(tasks)))
        if (entry->d_name[0] != '.')
            counted = thread_count(window, event, (pid_t)atol(entry->d_name));
    if (tasks)
        closedir(tasks);
    return tasks && counted;
}

static void counters_close(struct window *window)
{
    while (window->nr_counters > 0)
        close(window->counters[--window->nr_counters]);
}

static uint64_t counters_read(const struct window *window)
{
    uint64_t sum = 0, value;
    unsigned i;

    for (i = 0; i < window->nr_counters; i++)
        if (read(window->counters[i], &value, sizeof(value)) == sizeof(value))
            sum += value;
    return sum;
}

bool window_open(struct window *window, const struct processes *processes, bool count_syscalls)
{
    long event = count_syscalls ? event_number() : -1;
    unsigned i;

    window->processes = processes;
    window->nr_counters = 0;
    for (i = 0; i < processes->count && event >= 0; i++)
        if (!process_count(window, event, processes->pids[i]))
            event = -1;
    if (event < 0)
        counters_close(window);
    window->start_syscalls = counters_read(window);
    return cpu_read(processes, &window->start_cpu_ns);
}

bool window_close(struct window *window)
{
    uint64_t end_cpu_ns;
    bool there = cpu_read(window->processes, &end_cpu_ns);

    window->cpu_ns = there ? end_cpu_ns - window->start_cpu_ns : 0;
    window->syscalls = -1;
    if (window->nr_counters > 0)
        window->syscalls = (int64_t)(counters_read(window) - window->start_syscalls);
    counters_close(window);
    return there;
}
