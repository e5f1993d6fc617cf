/*
 * mailbox: how one thread wakes another's loop, without allocation and without queues that grow.
 *
 * A mailbox belongs to one libev loop (its owner thread). Any thread may post an item; the owner's
 * loop then calls the item's deliver() once, however often it was posted meanwhile (posting an item
 * that already waits does nothing). Items carry no data: they say "look again" at something that
 * has a lock of its own. deliver() may post, and may free the item.
 */
#ifndef BLKGATE_GATEWAY_MAILBOX_H
#define BLKGATE_GATEWAY_MAILBOX_H

#include <stdbool.h>

struct ev_loop;
struct mailbox;

struct mailbox_item {
    void (*deliver)(struct mailbox_item *item);
    struct mailbox_item *next; /* private */
    bool waiting;              /* private */
};

int mailbox_create(struct ev_loop *loop, struct mailbox **ret_mailbox);
void mailbox_destroy(struct mailbox *mailbox); /* NULL is fine; waiting items are forgotten */

void mailbox_post(struct mailbox *mailbox, struct mailbox_item *item); /* any thread */

/* Owner thread only: forgets the item if it waits; after it deliver() is not called any more. */
void mailbox_cancel(struct mailbox *mailbox, struct mailbox_item *item);

#endif
