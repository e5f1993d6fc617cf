/*
 * disklink: see disklink.h.
 *
 * Invariants
 *  1. order and report are only touched under the lock.
 *  2. Posting happens under the lock, so that after disklink_detach returns nobody is about to
 *     post to the worker's mailbox. Lock order: link, then mailbox; deliver() runs with neither.
 *  3. The publisher of ENDED does not touch the link after its unlock: the vbd may destroy it.
 *  4. Nothing is ordered after END and no life after a later one (our own bug: asserted).
 */
#include "gateway/disklink.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>

#include "gateway/mailbox.h"

/* One side's ear: what is called on its thread when the other side has changed something. */
struct ear {
    struct mailbox_item item;
    struct mailbox *box; /* NULL: nobody listens */
    void (*changed)(void *arg);
    void *arg;
};

struct disklink {
    struct disklink_spec spec;
    pthread_mutex_t lock;
    struct disk_order order;
    struct disk_report report;
    bool ordered;
    struct ear vbd;
    struct ear disk;
};

static void on_deliver(struct mailbox_item *item)
{
    struct ear *ear = (struct ear *)(void *)((char *)item - offsetof(struct ear, item));

    ear->changed(ear->arg);
}

static void ear_tell(struct ear *ear)
{
    if (ear->box)
        mailbox_post(ear->box, &ear->item);
}

static void ear_open(struct ear *ear, struct mailbox *box, void (*changed)(void *arg), void *arg)
{
    ear->item.deliver = on_deliver;
    ear->box = box;
    ear->changed = changed;
    ear->arg = arg;
}

static void ear_close(struct ear *ear)
{
    if (ear->box)
        mailbox_cancel(ear->box, &ear->item);
    ear->box = NULL;
}

int disklink_create(const struct disklink_spec *spec, struct mailbox *vbd_box,
                    void (*changed)(void *arg), void *arg, struct disklink **ret_link)
{
    struct disklink *link = calloc(1, sizeof(*link));
    int error;

    if (!link)
        return -ENOMEM;
    error = pthread_mutex_init(&link->lock, NULL);
    if (error) {
        free(link);
        return -error;
    }
    link->spec = *spec;
    ear_open(&link->vbd, vbd_box, changed, arg);
    *ret_link = link;
    return 0;
}

void disklink_destroy(struct disklink *link)
{
    if (!link)
        return;
    pthread_mutex_lock(&link->lock); /* waits for the publisher of ENDED to leave (invariant 3) */
    assert(!link->disk.box);
    ear_close(&link->vbd);
    pthread_mutex_unlock(&link->lock);
    pthread_mutex_destroy(&link->lock);
    free(link);
}

void disklink_order(struct disklink *link, const struct disk_order *order)
{
    pthread_mutex_lock(&link->lock);
    assert(!link->ordered || link->order.want != DISK_WANT_END || order->want == DISK_WANT_END);
    assert(!link->ordered || order->life >= link->order.life);
    link->order = *order;
    link->ordered = true;
    ear_tell(&link->disk);
    pthread_mutex_unlock(&link->lock);
}

void disklink_report(struct disklink *link, struct disk_report *ret_report)
{
    pthread_mutex_lock(&link->lock);
    *ret_report = link->report;
    pthread_mutex_unlock(&link->lock);
}

const struct disklink_spec *disklink_spec(const struct disklink *link)
{
    return &link->spec; /* never changes: needs no lock */
}

void disklink_attach(struct disklink *link, struct mailbox *disk_box, void (*changed)(void *arg),
                     void *arg)
{
    pthread_mutex_lock(&link->lock);
    ear_open(&link->disk, disk_box, changed, arg);
    if (link->ordered)
        ear_tell(&link->disk); /* an order given before anybody listened is not missed */
    pthread_mutex_unlock(&link->lock);
}

void disklink_detach(struct disklink *link)
{
    pthread_mutex_lock(&link->lock);
    ear_close(&link->disk);
    pthread_mutex_unlock(&link->lock);
}

void disklink_current_order(struct disklink *link, struct disk_order *ret_order)
{
    pthread_mutex_lock(&link->lock);
    *ret_order = link->order;
    pthread_mutex_unlock(&link->lock);
}

void disklink_publish(struct disklink *link, const struct disk_report *report)
{
    pthread_mutex_lock(&link->lock);
    link->report = *report;
    ear_tell(&link->vbd);
    pthread_mutex_unlock(&link->lock);
}
