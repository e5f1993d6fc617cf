/*
 * mailbox: see mailbox.h.
 *
 * Two lists under one lock: `posted` grows from any thread; a delivery first moves it to
 * `delivering`, so that an item which posts itself again waits for the next loop turn instead of
 * keeping this one for ever. mailbox_cancel looks in both.
 *
 * The wake-up is sent under the lock: once mailbox_destroy has had the lock, no poster can still
 * be about to touch the ev_async.
 */
#include "gateway/mailbox.h"

#include <errno.h>
#include <ev.h>
#include <pthread.h>
#include <stdlib.h>

struct item_list {
    struct mailbox_item *head;
    struct mailbox_item **tail;
};

struct mailbox {
    struct ev_loop *loop;
    ev_async wake;
    pthread_mutex_t lock;
    struct item_list posted;
    struct item_list delivering;
};

static void list_init(struct item_list *list)
{
    list->head = NULL;
    list->tail = &list->head;
}

static void list_append(struct item_list *list, struct mailbox_item *item)
{
    item->next = NULL;
    *list->tail = item;
    list->tail = &item->next;
}

static struct mailbox_item *list_pop(struct item_list *list)
{
    struct mailbox_item *item = list->head;

    if (item) {
        list->head = item->next;
        if (!list->head)
            list->tail = &list->head;
    }
    return item;
}

static bool list_remove(struct item_list *list, struct mailbox_item *item)
{
    for (struct mailbox_item **link = &list->head; *link; link = &(*link)->next) {
        if (*link != item)
            continue;
        *link = item->next;
        if (!*link)
            list->tail = link;
        return true;
    }
    return false;
}

/* The next item of this delivery, no longer waiting; NULL at its end. */
static struct mailbox_item *next_item(struct mailbox *mailbox)
{
    struct mailbox_item *item;

    pthread_mutex_lock(&mailbox->lock);
    item = list_pop(&mailbox->delivering);
    if (item)
        item->waiting = false;
    pthread_mutex_unlock(&mailbox->lock);
    return item;
}

static void on_wake(struct ev_loop *loop, ev_async *wake, int revents)
{
    struct mailbox *mailbox = wake->data;
    struct mailbox_item *item;

    (void)loop;
    (void)revents;
    pthread_mutex_lock(&mailbox->lock);
    while ((item = list_pop(&mailbox->posted)))
        list_append(&mailbox->delivering, item);
    pthread_mutex_unlock(&mailbox->lock);

    while ((item = next_item(mailbox)))
        item->deliver(item); /* may free the item */
}

int mailbox_create(struct ev_loop *loop, struct mailbox **ret_mailbox)
{
    struct mailbox *mailbox = calloc(1, sizeof(*mailbox));
    int error;

    if (!mailbox)
        return -ENOMEM;
    error = pthread_mutex_init(&mailbox->lock, NULL);
    if (error) {
        free(mailbox);
        return -error;
    }
    mailbox->loop = loop;
    list_init(&mailbox->posted);
    list_init(&mailbox->delivering);
    ev_async_init(&mailbox->wake, on_wake);
    mailbox->wake.data = mailbox;
    ev_async_start(loop, &mailbox->wake);
    *ret_mailbox = mailbox;
    return 0;
}

void mailbox_destroy(struct mailbox *mailbox)
{
    struct mailbox_item *item;

    if (!mailbox)
        return;
    pthread_mutex_lock(&mailbox->lock);
    while ((item = list_pop(&mailbox->posted)) || (item = list_pop(&mailbox->delivering)))
        item->waiting = false;
    pthread_mutex_unlock(&mailbox->lock);
    ev_async_stop(mailbox->loop, &mailbox->wake);
    pthread_mutex_destroy(&mailbox->lock);
    free(mailbox);
}

void mailbox_post(struct mailbox *mailbox, struct mailbox_item *item)
{
    pthread_mutex_lock(&mailbox->lock);
    if (!item->waiting) {
        item->waiting = true;
        list_append(&mailbox->posted, item);
        ev_async_send(mailbox->loop, &mailbox->wake);
    }
    pthread_mutex_unlock(&mailbox->lock);
}

void mailbox_cancel(struct mailbox *mailbox, struct mailbox_item *item)
{
    pthread_mutex_lock(&mailbox->lock);
    if (item->waiting) {
        if (!list_remove(&mailbox->posted, item))
            list_remove(&mailbox->delivering, item);
        item->waiting = false;
    }
    pthread_mutex_unlock(&mailbox->lock);
}
