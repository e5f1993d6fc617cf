/* Processes that tests stop and go on with. */
#ifndef BLKGATE_TESTS_PROCESS_H
#define BLKGATE_TESTS_PROCESS_H

#include <dirent.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>
#include <time.h>

/* Every thread stopped? They stop one by one, after the signal was sent. */
static inline bool process_is_stopped(pid_t pid)
{
    char path[320], state;
    struct dirent *entry;
    bool stopped = true;
    DIR *tasks;
    FILE *stat;

    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    tasks = opendir(path);
    while (tasks && (entry = readdir(tasks))) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/proc/%d/task/%s/stat", (int)pid, entry->d_name);
        stat = fopen(path, "re");
        stopped = stopped && stat && fscanf(stat, "%*d (%*[^)]) %c", &state) == 1 && state == 'T';
        if (stat)
            fclose(stat);
    }
    if (tasks)
        closedir(tasks);
    return tasks && stopped;
}

/* SIGSTOP; returns when nothing of it runs any more. False: it cannot be stopped. */
static inline bool process_stop(pid_t pid)
{
    const struct timespec moment = {.tv_nsec = 1000000};

    if (kill(pid, SIGSTOP) < 0)
        return false;
    for (int i = 0; i < 20000; i++) {
        if (process_is_stopped(pid))
            return true;
        nanosleep(&moment, NULL);
    }
    return false;
}

#endif
