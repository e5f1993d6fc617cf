/* lock: one holder at a time, whose pid the other learns; however the holder ends, it is free. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gateway/lock.h"

static char directory[] = "/tmp/blkgate-lock-XXXXXX";
static char path[64];

static void test_makes_directories(void **state)
{
    char parent[64];
    char reason[256];
    struct stat status;
    int fd = -1;

    (void)state;
    assert_int_equal(lock_take(path, reason, sizeof(reason), &fd), 0);
    snprintf(parent, sizeof(parent), "%s/a/b", directory);
    assert_int_equal(stat(parent, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0700);
    assert_int_equal(fstat(fd, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0600);
    close(fd);
}

static void test_one_holder(void **state)
{
    char want[32];
    char reason[256];
    int fd = -1;
    int other = -1;

    (void)state;
    assert_int_equal(lock_take(path, reason, sizeof(reason), &fd), 0);
    assert_int_equal(lock_take(path, reason, sizeof(reason), &other), -EWOULDBLOCK);
    assert_int_equal(other, -1);
    snprintf(want, sizeof(want), "process %ld holds ", (long)getpid());
    assert_non_null(strstr(reason, want));
    assert_non_null(strstr(reason, "only one blkgated may run"));
    assert_int_equal(ftruncate(fd, 0), 0); /* as between a lock and its pid */
    assert_int_equal(lock_take(path, reason, sizeof(reason), &other), -EWOULDBLOCK);
    assert_non_null(strstr(reason, "another process holds "));
    close(fd);
    assert_int_equal(lock_take(path, reason, sizeof(reason), &fd), 0);
    close(fd);
}

static void test_free_after_sigkill(void **state)
{
    char reason[256];
    char byte = 0;
    int fd = -1;
    int ends[2];
    pid_t child = -1;

    (void)state;
    assert_int_equal(pipe(ends), 0);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        byte = lock_take(path, reason, sizeof(reason), &fd) == 0 ? 'y' : 'n';
        if (write(ends[1], &byte, 1) == 1)
            pause();
        _exit(1);
    }
    assert_int_equal(read(ends[0], &byte, 1), 1);
    assert_int_equal(byte, 'y');
    assert_int_equal(lock_take(path, reason, sizeof(reason), &fd), -EWOULDBLOCK);
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_int_equal(lock_take(path, reason, sizeof(reason), &fd), 0);
    close(fd);
    close(ends[0]);
    close(ends[1]);
}

static void test_what_stands_in_the_way(void **state)
{
    char bad[96];
    char reason[256];
    int fd = -1;

    (void)state;
    snprintf(bad, sizeof(bad), "%s/x", path); /* below a file */
    assert_int_equal(lock_take(bad, reason, sizeof(reason), &fd), -ENOTDIR);
    assert_non_null(strstr(reason, bad));
    snprintf(bad, sizeof(bad), "%s/link", directory);
    assert_int_equal(symlink(path, bad), 0);
    assert_int_equal(lock_take(bad, reason, sizeof(reason), &fd), -ELOOP);
    unlink(bad);
    assert_int_equal(lock_take(directory, reason, sizeof(reason), &fd), -EISDIR);
    assert_non_null(strstr(reason, "cannot be opened"));
    assert_int_equal(fd, -1);
}

static int make_directory(void **state)
{
    (void)state;
    if (!mkdtemp(directory))
        return -1;
    snprintf(path, sizeof(path), "%s/a/b//lock", directory);
    return 0;
}

static int remove_directory(void **state)
{
    char *slash = NULL;

    (void)state;
    unlink(path);
    while (strcmp(path, directory) != 0 && (slash = strrchr(path, '/'))) {
        *slash = '\0';
        rmdir(path);
    }
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_makes_directories),
        cmocka_unit_test(test_one_holder),
        cmocka_unit_test(test_free_after_sigkill),
        cmocka_unit_test(test_what_stands_in_the_way),
    };

    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
