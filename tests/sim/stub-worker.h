/* stub-worker: gateway/worker.h without rings and without servers. It answers every order at once
 * and well, or as a test tells it, and counts. Linked in place of gateway/worker.c. */
#ifndef STUB_WORKER_H
#define STUB_WORKER_H

#include <ev.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <xenstore.h>

#include "gateway/disklink.h"
#include "gateway/mailbox.h"
#include "gateway/worker.h"

enum { STUB_DISKS = 160 };

struct stub_disk {
    struct worker *worker;
    struct disklink *link;
    struct disk_order done; /* the last order answered */
    bool any;
};

struct worker {
    struct ev_loop *loop;
    struct mailbox *box;
    struct mailbox_item poke, stop;
    pthread_t thread;
    pthread_mutex_t lock; /* what follows */
    struct stub_disk disks[STUB_DISKS];
    unsigned disk_count;
    /* told by the test */
    bool open_fails, open_refused, connect_refused, lose, hold_open, hold_close;
    const char *not_flushed;
    uint64_t capacity_sectors; /* of the server; 0: 8192 */
    bool no_flush;             /* the server cannot */
    /* told to the test */
    unsigned opens, connects, fails, suspends, closes, ends, out_of_order;
    int state_at_fail;
    struct disk_order open, connect, close; /* the last of each; close: or SUSPEND */
    char opened[96];                        /* the name of the last disk opened */
    char fail_watch[160];                   /* B/state, read at FAIL */
    struct xs_handle *xs;
};

/* Changes what the worker does, and has it look again. */
#define TELL(w, statement)                  \
    do {                                    \
        pthread_mutex_lock(&(w)->lock);     \
        statement;                          \
        pthread_mutex_unlock(&(w)->lock);   \
        mailbox_post((w)->box, &(w)->poke); \
    } while (0)

#endif
