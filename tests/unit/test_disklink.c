/* disklink: only the latest counts, nobody is missed, detach and END between two threads (TSan). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <ev.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "gateway/disklink.h"
#include "gateway/mailbox.h"

enum { LIVES = 2000 };

static void count(void *arg)
{
    ++*(unsigned *)arg;
}

static void turn(struct ev_loop *loop)
{
    ev_run(loop, EVRUN_NOWAIT);
}

static void the_latest_order_and_report_count(void **state)
{
    struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
    struct mailbox *box = NULL;
    struct disklink *link = NULL;
    struct disklink_spec spec = {.name = "5/xvda (root)", .domid = 5};
    struct disk_order order = {.life = 1, .want = DISK_WANT_OPEN};
    struct disk_report report = {.life = 1, .phase = DISK_OPENING};
    unsigned vbd_told = 0, disk_told = 0;

    (void)state;
    assert_int_equal(mailbox_create(loop, &box), 0);
    assert_int_equal(disklink_create(&spec, box, count, &vbd_told, &link), 0);
    assert_string_equal(disklink_spec(link)->name, "5/xvda (root)");

    disklink_order(link, &order); /* before anybody listens */
    disklink_attach(link, box, count, &disk_told);
    turn(loop);
    assert_int_equal(disk_told, 1);

    order.want = DISK_WANT_CONNECT;
    disklink_order(link, &order);
    order.want = DISK_WANT_CLOSE;
    disklink_order(link, &order);
    turn(loop);
    assert_int_equal(disk_told, 2);
    disklink_current_order(link, &order);
    assert_int_equal(order.want, DISK_WANT_CLOSE);

    disklink_publish(link, &report);
    report.phase = DISK_CLOSED;
    disklink_publish(link, &report);
    turn(loop);
    assert_int_equal(vbd_told, 1);
    disklink_report(link, &report);
    assert_int_equal(report.phase, DISK_CLOSED);

    order.want = DISK_WANT_END;
    disklink_order(link, &order);
    disklink_detach(link); /* forgets the order that waits in the box ... */
    report.phase = DISK_ENDED;
    disklink_publish(link, &report); /* ... while reports still arrive */
    turn(loop);
    assert_int_equal(disk_told, 2);
    assert_int_equal(vbd_told, 2);
    disklink_publish(link, &report);
    disklink_destroy(link); /* forgets the report that waits in the box */
    turn(loop);
    assert_int_equal(vbd_told, 2);
    disklink_destroy(NULL);
    mailbox_destroy(box);
    ev_loop_destroy(loop);
}

/* A disk that answers every order at once, on a thread of its own. */
struct disk {
    struct ev_loop *loop;
    struct mailbox *box;
    struct disklink *link;
    struct mailbox_item start;
};

static void disk_step(void *arg)
{
    static const enum disk_phase answer[] = {
        [DISK_WANT_OPEN] = DISK_READY, [DISK_WANT_CONNECT] = DISK_CONNECTED,
        [DISK_WANT_FAIL] = DISK_LOST,  [DISK_WANT_CLOSE] = DISK_CLOSED,
        [DISK_WANT_END] = DISK_ENDED,
    };
    struct disk *disk = arg;
    struct disk_order order;
    struct disk_report report = {0};

    disklink_current_order(disk->link, &order);
    report.life = order.life;
    report.phase = answer[order.want];
    report.properties.capacity_sectors = order.life;
    if (order.want == DISK_WANT_END) {
        disklink_detach(disk->link);
        ev_break(disk->loop, EVBREAK_ALL);
    }
    disklink_publish(disk->link, &report);
}

static void disk_start(struct mailbox_item *item)
{
    struct disk *disk = (struct disk *)(void *)((char *)item - offsetof(struct disk, start));

    disklink_attach(disk->link, disk->box, disk_step, disk);
}

static void *disk_thread(void *arg)
{
    ev_run(((struct disk *)arg)->loop, 0);
    return NULL;
}

struct vbd {
    struct ev_loop *loop;
    struct disklink *link;
    struct disk_order order;
};

static void vbd_step(void *arg)
{
    struct vbd *vbd = arg;
    struct disk_report report;

    disklink_report(vbd->link, &report);
    if (report.life != vbd->order.life)
        return; /* of an older life: not there yet */
    assert_int_equal(report.properties.capacity_sectors, report.life);
    if (report.phase == DISK_READY && vbd->order.want == DISK_WANT_OPEN) {
        vbd->order.want = DISK_WANT_CONNECT;
    } else if (report.phase == DISK_CONNECTED && vbd->order.want == DISK_WANT_CONNECT) {
        vbd->order.want = DISK_WANT_CLOSE;
    } else if (report.phase == DISK_CLOSED && vbd->order.want == DISK_WANT_CLOSE) {
        vbd->order.want = vbd->order.life < LIVES ? DISK_WANT_OPEN : DISK_WANT_END;
        vbd->order.life += vbd->order.want == DISK_WANT_OPEN;
    } else if (report.phase == DISK_ENDED) {
        disklink_destroy(vbd->link);
        vbd->link = NULL;
        ev_break(vbd->loop, EVBREAK_ALL);
        return;
    } else {
        return;
    }
    disklink_order(vbd->link, &vbd->order);
}

static void many_lives_between_two_threads(void **state)
{
    struct disklink_spec spec = {.name = "5/xvda (root)"};
    struct disk disk = {.loop = ev_loop_new(EVFLAG_AUTO), .start.deliver = disk_start};
    struct vbd vbd = {.loop = ev_loop_new(EVFLAG_AUTO), .order.life = 1};
    struct mailbox *box = NULL;
    pthread_t thread;

    (void)state;
    assert_int_equal(mailbox_create(vbd.loop, &box), 0);
    assert_int_equal(mailbox_create(disk.loop, &disk.box), 0);
    assert_int_equal(disklink_create(&spec, box, vbd_step, &vbd, &vbd.link), 0);
    disk.link = vbd.link;
    disklink_order(vbd.link, &vbd.order);
    assert_int_equal(pthread_create(&thread, NULL, disk_thread, &disk), 0);
    mailbox_post(disk.box, &disk.start);
    ev_run(vbd.loop, 0);
    pthread_join(thread, NULL);
    assert_null(vbd.link);
    assert_int_equal(vbd.order.life, LIVES);
    mailbox_destroy(disk.box);
    mailbox_destroy(box);
    ev_loop_destroy(disk.loop);
    ev_loop_destroy(vbd.loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_latest_order_and_report_count),
        cmocka_unit_test(many_lives_between_two_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
