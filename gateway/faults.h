/*
 * faults: protections that the build for tests can switch off, to prove that their tests can fail,
 * and merging, which it can force to its extremes.
 *
 * Only where BLKGATE_FAULTS is defined (the binary blkgated-faulty, never installed) is anything
 * read; everywhere else fault_is is the constant false, and what it guards is not even compiled in.
 * There, the environment BLKGATE_FAULT has names, separated by commas:
 *      no-replay    after a reconnect, answered writes that no flush covered are not written again
 *      no-ghosts    nothing waits for commands that a lost session may still execute
 *      no-journal   a start knows of no request in flight: all in the rings is new to it
 *      merge-nothing  every request is a command of its own
 *      merge-all    whoever has a neighbour at the server waits, however few commands are there
 * Any thread may ask; nobody sets the environment once threads run. Ask when something begins
 * (a connection, a disk, a start), not for each request.
 */
#ifndef BLKGATE_GATEWAY_FAULTS_H
#define BLKGATE_GATEWAY_FAULTS_H

#include <stdbool.h>

#ifdef BLKGATE_FAULTS

#include <stdlib.h>
#include <string.h>

static inline bool fault_is(const char *name)
{
    const char *names = getenv("BLKGATE_FAULT");
    const size_t length = strlen(name);

    while (names && *names) {
        const size_t this_length = strcspn(names, ",");

        if (this_length == length && memcmp(names, name, length) == 0)
            return true;
        names += this_length + (names[this_length] == ',');
    }
    return false;
}

#else

static inline bool fault_is(const char *name)
{
    (void)name;
    return false;
}

#endif

#endif
