/*
 * retire: the other stop of blkgated. Its own leaves every disk as it is for the next start; this
 * one closes them for good: every guest is asked to let go of its disks, all at once, as by
 * `detach`, and what is closed is removed.
 *
 * A guest need not do so. Then its disk is served on, and closes when the guest lets go of it in
 * the end; `retire` may be run again as often as one likes. Linux before 5.14 refuses so, as long
 * as the disk is mounted or open. Since 5.14 it lets go at once, mounted or not, and what it had
 * not written back yet is lost there.
 */
#ifndef BLKGATE_GATEWAY_CLI_RETIRE_H
#define BLKGATE_GATEWAY_CLI_RETIRE_H

#include <stdbool.h>
#include <stdint.h>

struct nodes;

struct retire_options {
    const char *domain; /* its name or number; NULL: all */
    uint32_t timeout_s;
    bool json; /* on standard output, one object a line: what still waits */
    bool yes;  /* ask nobody at the terminal */
};

/* The exit status. */
int retire_run(struct nodes *nodes, const struct retire_options *options);

#endif
