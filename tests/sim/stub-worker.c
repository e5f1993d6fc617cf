/* stub-worker: see stub-worker.h. */
#include "stub-worker.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

static void check(bool good)
{
    if (!good)
        abort();
}

static bool stub_answer(struct worker *w, const struct stub_disk *disk,
                        const struct disk_order *order, struct disk_report *report)
{
    enum disk_want before = disk->done.want;
    bool new_life = !disk->any || order->life != disk->done.life;

    switch (order->want) {
    case DISK_WANT_OPEN:
        if (w->hold_open)
            return false;
        w->opens++;
        snprintf(w->opened, sizeof(w->opened), "%s", disklink_spec(disk->link)->name);
        if (!new_life || (disk->any && before != DISK_WANT_CLOSE && before != DISK_WANT_SUSPEND))
            w->out_of_order++;
        w->open = *order;
        report->phase = w->open_refused ? DISK_REFUSED : w->open_fails ? DISK_LOST : DISK_READY;
        break;
    case DISK_WANT_CONNECT:
        w->connects++;
        if (new_life || before != DISK_WANT_OPEN)
            w->out_of_order++;
        w->connect = *order;
        report->phase = w->connect_refused ? DISK_REFUSED : DISK_CONNECTED;
        break;
    case DISK_WANT_FAIL: {
        char *state = xs_read(w->xs, XBT_NULL, w->fail_watch, NULL);

        w->fails++;
        w->state_at_fail = state ? atoi(state) : -1;
        free(state);
        report->phase = DISK_LOST;
        break;
    }
    case DISK_WANT_SUSPEND:
    case DISK_WANT_CLOSE:
        if (w->hold_close)
            return false;
        if (order->want == DISK_WANT_SUSPEND)
            w->suspends++;
        else
            w->closes++;
        w->close = *order;
        report->phase = DISK_CLOSED;
        break;
    case DISK_WANT_END:
        if (w->hold_close)
            return false;
        w->ends++;
        report->phase = DISK_ENDED;
        break;
    }
    if (report->phase == DISK_LOST)
        snprintf(report->reason, sizeof(report->reason), "Connection refused");
    if (report->phase == DISK_REFUSED)
        snprintf(report->reason, sizeof(report->reason), "cannot be mapped");
    if (report->phase == DISK_CLOSED && w->not_flushed)
        snprintf(report->reason, sizeof(report->reason), "%s", w->not_flushed);
    return true;
}

static void stub_step(void *arg)
{
    struct stub_disk *disk = arg;
    struct worker *w = disk->worker;
    struct disk_order order;
    struct disk_report report = {
        .properties = {.capacity_sectors = 8192, .physical_sector_bytes = 4096}};
    struct disklink *link = disk->link;
    bool fresh;

    pthread_mutex_lock(&w->lock);
    disklink_current_order(link, &order);
    fresh = !disk->any || order.life != disk->done.life || order.want != disk->done.want;
    report.life = order.life;
    report.properties.readonly = disklink_spec(link)->readonly;
    report.properties.flush = !w->no_flush;
    if (w->capacity_sectors)
        report.properties.capacity_sectors = w->capacity_sectors;
    if (fresh) {
        if (!stub_answer(w, disk, &order, &report))
            goto out;
        disk->done = order;
        disk->any = true;
    } else if (w->lose && order.want <= DISK_WANT_CONNECT) {
        w->lose = false;
        report.phase = DISK_LOST;
        snprintf(report.reason, sizeof(report.reason), "Connection reset by peer");
    } else {
        goto out;
    }
    if (report.phase == DISK_ENDED) {
        disklink_detach(link);
        disk->link = NULL;
    }
    disklink_publish(link, &report);
out:
    pthread_mutex_unlock(&w->lock);
}

static void stub_poke(struct mailbox_item *item)
{
    struct worker *w = (struct worker *)(void *)((char *)item - offsetof(struct worker, poke));

    for (unsigned i = 0; i < STUB_DISKS; i++) {
        bool fresh = false;

        pthread_mutex_lock(&w->lock);
        if (w->disks[i].link && !w->disks[i].worker) {
            w->disks[i].worker = w;
            fresh = true;
        }
        pthread_mutex_unlock(&w->lock);
        if (fresh)
            disklink_attach(w->disks[i].link, w->box, stub_step, &w->disks[i]);
        if (w->disks[i].worker && w->disks[i].link)
            stub_step(&w->disks[i]);
    }
}

static void stub_stop(struct mailbox_item *item)
{
    struct worker *w = (struct worker *)(void *)((char *)item - offsetof(struct worker, stop));

    ev_break(w->loop, EVBREAK_ALL);
}

static void *stub_run(void *arg)
{
    ev_run(((struct worker *)arg)->loop, 0);
    return NULL;
}

int worker_start(unsigned index, struct worker **ret_worker)
{
    struct worker *w = calloc(1, sizeof(*w));

    (void)index;
    check(w);
    w->loop = ev_loop_new(EVFLAG_AUTO);
    check(mailbox_create(w->loop, &w->box) == 0);
    pthread_mutex_init(&w->lock, NULL);
    w->poke.deliver = stub_poke;
    w->stop.deliver = stub_stop;
    w->xs = xs_open(0);
    check(w->xs);
    check(pthread_create(&w->thread, NULL, stub_run, w) == 0);
    *ret_worker = w;
    return 0;
}

int worker_place_disk(struct worker *w, struct disklink *link)
{
    int ret = -ENOSPC;

    pthread_mutex_lock(&w->lock);
    for (unsigned i = 0; i < STUB_DISKS; i++) {
        if (w->disks[i].link)
            continue;
        w->disks[i] = (struct stub_disk){.link = link};
        ret = 0;
        break;
    }
    pthread_mutex_unlock(&w->lock);
    mailbox_post(w->box, &w->poke);
    return ret;
}

unsigned worker_load(struct worker *worker)
{
    (void)worker;
    return 0;
}

void worker_stop(struct worker *w)
{
    mailbox_post(w->box, &w->stop);
    pthread_join(w->thread, NULL);
    for (unsigned i = 0; i < STUB_DISKS; i++)
        check(!w->disks[i].link);
    mailbox_destroy(w->box);
    ev_loop_destroy(w->loop);
    xs_close(w->xs);
    pthread_mutex_destroy(&w->lock);
    free(w);
}
