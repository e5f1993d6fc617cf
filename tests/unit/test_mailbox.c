/* mailbox: one delivery for many posts, cancel, order, re-posting, and threads (run under TSan). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <ev.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "gateway/mailbox.h"

enum { THREADS = 4, POSTS = 20000 };

struct counted {
    struct mailbox_item item; /* first: the tests cast */
    struct mailbox *box;
    struct mailbox_item *cancels;
    unsigned delivered;
    unsigned repost;
};

static unsigned order[8];
static unsigned order_count;

static void count(struct mailbox_item *item)
{
    struct counted *counted = (struct counted *)item;

    counted->delivered++;
    if (counted->cancels)
        mailbox_cancel(counted->box, counted->cancels);
    if (counted->repost > 0) {
        counted->repost--;
        mailbox_post(counted->box, item);
    }
}

static void note_order(struct mailbox_item *item)
{
    order[order_count++] = ((struct counted *)item)->repost;
}

static void free_item(struct mailbox_item *item)
{
    free(item);
}

struct fixture {
    struct ev_loop *loop;
    struct mailbox *box;
};

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));

    assert_non_null(fixture);
    fixture->loop = ev_loop_new(EVFLAG_AUTO);
    assert_non_null(fixture->loop);
    assert_int_equal(mailbox_create(fixture->loop, &fixture->box), 0);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;

    mailbox_destroy(fixture->box);
    ev_loop_destroy(fixture->loop);
    free(fixture);
    return 0;
}

static void turn(struct fixture *fixture)
{
    ev_run(fixture->loop, EVRUN_NOWAIT);
}

static void many_posts_are_one_delivery(void **state)
{
    struct fixture *f = *state;
    struct counted c = {.item.deliver = count, .box = f->box};

    for (int i = 0; i < 10; i++)
        mailbox_post(f->box, &c.item);
    turn(f);
    assert_int_equal(c.delivered, 1);
    turn(f);
    assert_int_equal(c.delivered, 1);
    mailbox_post(f->box, &c.item);
    turn(f);
    assert_int_equal(c.delivered, 2);
}

static void items_come_in_order(void **state)
{
    struct fixture *f = *state;
    struct counted c[4];

    order_count = 0;
    for (unsigned i = 0; i < 4; i++) {
        c[i] = (struct counted){.item.deliver = note_order, .repost = i};
        mailbox_post(f->box, &c[i].item);
    }
    mailbox_cancel(f->box, &c[3].item); /* the last: the tail moves back */
    mailbox_cancel(f->box, &c[1].item);
    mailbox_post(f->box, &c[1].item);
    turn(f);
    assert_int_equal(order_count, 3);
    assert_int_equal(order[0], 0);
    assert_int_equal(order[1], 2);
    assert_int_equal(order[2], 1);
}

static void a_delivery_may_post_itself_for_the_next_turn(void **state)
{
    struct fixture *f = *state;
    struct counted c = {.item.deliver = count, .box = f->box, .repost = 3};

    mailbox_post(f->box, &c.item);
    turn(f);
    assert_int_equal(c.delivered, 1);
    for (int i = 0; i < 6; i++)
        turn(f);
    assert_int_equal(c.delivered, 4);
}

static void a_delivery_may_cancel_one_of_the_same_turn(void **state)
{
    struct fixture *f = *state;
    struct counted second = {.item.deliver = count, .box = f->box};
    struct counted first = {.item.deliver = count, .box = f->box, .cancels = &second.item};

    mailbox_post(f->box, &first.item);
    mailbox_post(f->box, &second.item);
    turn(f);
    turn(f);
    assert_int_equal(first.delivered, 1);
    assert_int_equal(second.delivered, 0);
    assert_false(second.item.waiting);
}

static void a_delivery_may_free_its_item(void **state)
{
    struct fixture *f = *state;
    struct mailbox_item *item = calloc(1, sizeof(*item));

    assert_non_null(item);
    item->deliver = free_item;
    mailbox_post(f->box, item);
    turn(f);
}

static void destroy_forgets(void **state)
{
    struct fixture *f = *state;
    struct mailbox *other = NULL;
    struct counted c = {.item.deliver = count};

    assert_int_equal(mailbox_create(f->loop, &other), 0);
    mailbox_post(other, &c.item);
    mailbox_destroy(other);
    assert_false(c.item.waiting);
    turn(f);
    assert_int_equal(c.delivered, 0);
    mailbox_destroy(NULL);
}

/* Each thread raises a number and posts; the loop must see every last value. */
struct shared {
    struct mailbox_item item;
    struct mailbox *box;
    atomic_uint written;
    unsigned seen;
    struct ev_loop *loop;
    unsigned *unfinished;
};

static void see(struct mailbox_item *item)
{
    struct shared *shared = (struct shared *)item;
    unsigned before = shared->seen;

    shared->seen = atomic_load(&shared->written);
    if (before != POSTS && shared->seen == POSTS && --*shared->unfinished == 0)
        ev_break(shared->loop, EVBREAK_ALL);
}

static void *post_much(void *arg)
{
    struct shared *shared = arg;

    for (unsigned i = 1; i <= POSTS; i++) {
        atomic_store(&shared->written, i);
        mailbox_post(shared->box, &shared->item);
    }
    return NULL;
}

static void no_post_from_any_thread_is_missed(void **state)
{
    struct fixture *f = *state;
    struct shared shared[THREADS];
    pthread_t thread[THREADS];
    unsigned unfinished = THREADS;

    for (int i = 0; i < THREADS; i++) {
        shared[i] = (struct shared){
            .item.deliver = see, .box = f->box, .loop = f->loop, .unfinished = &unfinished};
        assert_int_equal(pthread_create(&thread[i], NULL, post_much, &shared[i]), 0);
    }
    ev_run(f->loop, 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    assert_int_equal(unfinished, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(many_posts_are_one_delivery, setup, teardown),
        cmocka_unit_test_setup_teardown(items_come_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(a_delivery_may_post_itself_for_the_next_turn, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_delivery_may_cancel_one_of_the_same_turn, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_delivery_may_free_its_item, setup, teardown),
        cmocka_unit_test_setup_teardown(destroy_forgets, setup, teardown),
        cmocka_unit_test_setup_teardown(no_post_from_any_thread_is_missed, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
