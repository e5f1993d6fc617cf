#include "gateway/worker.h"

#include <errno.h>
#include <ev.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "gateway/disk.h"
#include "gateway/evtchn.h"
#include "gateway/grants.h"
#include "gateway/list.h"
#include "gateway/log.h"
#include "gateway/mailbox.h"
#include "gateway/nbdconn.h"
#include "gateway/slab.h"
#include "proto/limits.h"

enum {
    SECOND_NS = 1000000000,
    DISK_PERMILLE = 5, /* a disk that is idle now, for all that is known */
};

struct worker {
    struct disk_home home;
    pthread_t thread;
    bool thread_runs;
    struct ev_prepare before_sleep;
    struct ev_idle more_work; /* active: the loop must not sleep */
    atomic_uint disks;
    /* Of who places disks: what the worker had used when it was last asked. */
    clockid_t cpu_clock;
    uint64_t asked_ns, asked_cpu_ns;
    unsigned busy_permille;
    struct mailbox_item stop;
    /* Disks placed by other threads and not yet moved in. */
    pthread_mutex_t placed_lock;
    struct list placed;
    struct mailbox_item placed_item;
};

/* One round over all disks that have something to do: three grant-copy calls at most. */
static void round_run(struct worker *worker)
{
    struct disk *disk;
    struct list disks;

    list_init(&disks);
    while ((disk = disk_next_active(&worker->home)))
        list_append(&disks, disk_place(disk));
    list_each_safe (node, &disks) {
        if (!disk_advance(disk_of_place(node)))
            atomic_fetch_sub(&worker->disks, 1);
    }
    list_each (node, &disks)
        disk_take(disk_of_place(node));
    grants_run(worker->home.grants, GRANTS_FROM_GUEST);
    list_each (node, &disks)
        disk_read(disk_of_place(node));
    list_each (node, &disks)
        disk_start(disk_of_place(node));
    grants_run(worker->home.grants, GRANTS_FROM_GUEST);
    list_each (node, &disks)
        disk_send(disk_of_place(node));
    list_each (node, &disks)
        disk_collect(disk_of_place(node));
    grants_run(worker->home.grants, GRANTS_TO_GUEST);
    for (struct list *node = list_pop(&disks); node; node = list_pop(&disks))
        disk_answer(disk_of_place(node));
}

static void on_before_sleep(struct ev_loop *loop, struct ev_prepare *prepare, int events)
{
    struct worker *worker = prepare->data;
    struct disk_home *home = &worker->home;
    struct disk *disk;

    (void)events;
    home->started_bytes = 0;
    for (int i = 0; i < LIMIT_ROUNDS_PER_TURN && !list_empty(&home->active) &&
                    home->started_bytes < LIMIT_ROUND_BYTES;
         i++)
        round_run(worker);
    while ((disk = disk_next_unarmed(home)))
        disk_arm(disk);
    if (list_empty(&home->active))
        ev_idle_stop(loop, &worker->more_work);
    else
        ev_idle_start(loop, &worker->more_work);
}

static void on_more_work(struct ev_loop *loop, struct ev_idle *idle, int events)
{
    (void)loop; /* its being active is all it does */
    (void)idle;
    (void)events;
}

static void on_stop(struct mailbox_item *item)
{
    struct worker *worker = container_of(item, struct worker, stop);

    ev_break(worker->home.loop, EVBREAK_ALL);
}

static void on_placed(struct mailbox_item *item)
{
    struct worker *worker = container_of(item, struct worker, placed_item);
    struct list placed, *node;

    list_init(&placed);
    pthread_mutex_lock(&worker->placed_lock);
    list_splice(&placed, &worker->placed);
    pthread_mutex_unlock(&worker->placed_lock);
    while ((node = list_pop(&placed)))
        disk_move_in(disk_of_place(node), &worker->home);
}

static void *worker_main(void *arg)
{
    struct worker *worker = arg;

    ev_run(worker->home.loop, 0);
    return NULL;
}

static int open_home(struct worker *worker, unsigned index)
{
    struct disk_home *home = &worker->home;
    int err;

    list_init(&home->active);
    list_init(&home->starved);
    list_init(&home->unarmed);
    home->loop = ev_loop_new(EVFLAG_AUTO);
    if (!home->loop)
        return -ENOMEM;
    err = mailbox_create(home->loop, &home->mailbox);
    if (err < 0)
        return err;
    err = slab_create(LIMIT_SLAB_BYTES, &home->slab);
    if (err < 0)
        return err;
    err = grants_open(&home->grants);
    if (err < 0) {
        log_error(NULL, "worker %u cannot open /dev/xen/gntdev (modprobe xen-gntdev?)", index);
        return err;
    }
    err = evtchn_open(home->loop, &home->evtchn);
    if (err < 0)
        log_error(NULL, "worker %u cannot open /dev/xen/evtchn (modprobe xen-evtchn?)", index);
    return err;
}

static void worker_free(struct worker *worker)
{
    struct disk_home *home = &worker->home;

    evtchn_close(home->evtchn);
    grants_close(home->grants);
    slab_destroy(home->slab);
    mailbox_destroy(home->mailbox);
    if (home->loop)
        ev_loop_destroy(home->loop);
    pthread_mutex_destroy(&worker->placed_lock);
    free(worker);
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;

    return clock_gettime(clock, &now) == 0
               ? (uint64_t)now.tv_sec * SECOND_NS + (uint64_t)now.tv_nsec
               : 0;
}

int worker_create(unsigned index, struct worker **ret_worker)
{
    struct worker *worker = calloc(1, sizeof *worker);
    int err;

    if (!worker)
        return -ENOMEM;
    list_init(&worker->placed);
    pthread_mutex_init(&worker->placed_lock, NULL);
    worker->placed_item.deliver = on_placed;
    worker->stop.deliver = on_stop;
    err = open_home(worker, index);
    if (err < 0) {
        worker_free(worker);
        return err;
    }
    ev_prepare_init(&worker->before_sleep, on_before_sleep);
    worker->before_sleep.data = worker;
    ev_prepare_start(worker->home.loop, &worker->before_sleep);
    ev_idle_init(&worker->more_work, on_more_work);
    *ret_worker = worker;
    return 0;
}

void worker_turn(struct worker *worker)
{
    ev_run(worker->home.loop, EVRUN_NOWAIT);
}

int worker_start(unsigned index, struct worker **ret_worker)
{
    struct worker *worker;
    int err = nbdconn_prepare();

    if (err < 0)
        return err;
    err = worker_create(index, &worker);
    if (err < 0)
        return err;
    err = -pthread_create(&worker->thread, NULL, worker_main, worker);
    if (err < 0) {
        worker_free(worker);
        return err;
    }
    worker->thread_runs = true;
    pthread_getcpuclockid(worker->thread, &worker->cpu_clock);
    worker->asked_ns = clock_ns(CLOCK_MONOTONIC);
    *ret_worker = worker;
    return 0;
}

int worker_place_disk(struct worker *worker, struct disklink *link)
{
    struct disk *disk;
    int err = disk_create(link, &disk);

    if (err < 0)
        return err;
    atomic_fetch_add(&worker->disks, 1);
    pthread_mutex_lock(&worker->placed_lock);
    list_append(&worker->placed, disk_place(disk));
    pthread_mutex_unlock(&worker->placed_lock);
    mailbox_post(worker->home.mailbox, &worker->placed_item);
    return 0;
}

unsigned worker_load(struct worker *worker)
{
    uint64_t now_ns = clock_ns(CLOCK_MONOTONIC), cpu_ns;

    if (now_ns - worker->asked_ns >= SECOND_NS) {
        cpu_ns = clock_ns(worker->cpu_clock);
        worker->busy_permille =
            (unsigned)((cpu_ns - worker->asked_cpu_ns) * 1000 / (now_ns - worker->asked_ns));
        worker->asked_ns = now_ns;
        worker->asked_cpu_ns = cpu_ns;
    }
    return worker->busy_permille + atomic_load(&worker->disks) * DISK_PERMILLE;
}

void worker_stop(struct worker *worker)
{
    if (!worker)
        return;
    if (worker->thread_runs) {
        mailbox_post(worker->home.mailbox, &worker->stop);
        pthread_join(worker->thread, NULL);
    }
    worker_free(worker);
}
