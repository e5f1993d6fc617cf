/* Scripts and traces of processes, for the tests of program and fence. */
#ifndef BLKGATE_TESTS_UNIT_SCRIPT_H
#define BLKGATE_TESTS_UNIT_SCRIPT_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static char directory[] = "/tmp/blkgate-script-XXXXXX"; /* where the tests work */

static void pause_ms(long ms)
{
    const struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

    nanosleep(&time, NULL);
}

/* An executable file of these bytes; not open for writing anywhere when it is run. */
static const char *write_program(const char *name, const char *text, mode_t mode)
{
    static char path[128];
    int fd;

    snprintf(path, sizeof path, "%s/%s", directory, name);
    unlink(path);
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    assert_int_equal(close(fd), 0);
    return path;
}

static const char *write_script(const char *body)
{
    char text[1024];

    snprintf(text, sizeof text, "#!/bin/sh\n%s\n", body);
    return write_program("script", text, 0700);
}

/* "" if it is not there (yet). */
static const char *file_text(const char *name)
{
    static char text[4096];
    size_t got = 0;
    FILE *in;

    if (chdir(directory) == 0 && (in = fopen(name, "re"))) {
        got = fread(text, 1, sizeof text - 1, in);
        fclose(in);
    }
    text[got] = '\0';
    return text;
}

/* The number in a file that a script writes by `mv`, once it is there. */
static inline pid_t wait_for_pid(const char *name)
{
    const char *text;

    while (*(text = file_text(name)) == '\0')
        pause_ms(5);
    return (pid_t)strtol(text, NULL, 10);
}

/* Nobody may reap what a test's grandchild was: a zombie is gone as well. */
static inline bool is_gone(pid_t pid)
{
    char path[64], text[512] = "";
    const char *state;
    FILE *in;

    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    in = fopen(path, "re");
    if (!in)
        return true;
    if (!fgets(text, sizeof text, in))
        text[0] = '\0';
    fclose(in);
    state = strrchr(text, ')');
    return !state || state[2] == 'Z' || state[2] == 'X';
}

static inline void wait_until_gone(pid_t pid)
{
    while (!is_gone(pid))
        pause_ms(5);
}

static int make_directory(void **state)
{
    (void)state;
    return mkdtemp(directory) && chdir(directory) == 0 ? 0 : -1;
}

static int remove_directory(void **state)
{
    char command[128];

    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", directory);
    return chdir("/") == 0 ? system(command) : -1;
}

#endif
