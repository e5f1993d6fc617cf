/* xenbus: numbers, names, paths; the reaction table; and all views at once for legality and rest.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "proto/xenbus.h"

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

static void numbers_are_digits_and_nothing_else(void **state)
{
    static const char *const junk[] = {
        "",    " ",   "1 ", " 1", "+1",   "-1",  "0x10",
        "1\n", "1.0", "a",  "1a", "\xff", "1e3", "000000000000000000001"};
    uint64_t value = 7;
    uint32_t small = 7;

    (void)state;
    for (size_t i = 0; i < COUNT(junk); i++)
        assert_int_equal(xenbus_parse_u64(junk[i], UINT64_MAX, &value), -EINVAL);
    assert_int_equal(xenbus_parse_u64(NULL, UINT64_MAX, &value), -EINVAL);
    assert_int_equal(xenbus_parse_u64("18446744073709551616", UINT64_MAX, &value), -ERANGE);
    assert_int_equal(xenbus_parse_u64("18446744073709551620", UINT64_MAX, &value), -ERANGE);
    assert_int_equal(xenbus_parse_u64("11", 10, &value), -ERANGE);
    assert_int_equal(xenbus_parse_u32("4294967296", UINT32_MAX, &small), -ERANGE);
    assert_int_equal(value, 7);
    assert_int_equal(small, 7);
    assert_int_equal(xenbus_parse_u64("18446744073709551615", UINT64_MAX, &value), 0);
    assert_true(value == UINT64_MAX);
    assert_int_equal(xenbus_parse_u64("0", 0, &value), 0);
    assert_int_equal(value, 0);
    assert_int_equal(xenbus_parse_u32("4294967295", UINT32_MAX, &small), 0);
    assert_true(small == UINT32_MAX);
}

static void states_are_one_to_eight(void **state)
{
    static const char *const junk[] = {"", "9", "x", " 4", "4 ", "-1", "0", "44"};

    (void)state;
    for (size_t i = 0; i < COUNT(junk); i++)
        assert_int_equal(xenbus_state_parse(junk[i]), XENBUS_ABSENT);
    assert_int_equal(xenbus_state_parse(NULL), XENBUS_ABSENT);
    assert_int_equal(xenbus_state_parse("4"), XENBUS_CONNECTED);
    assert_int_equal(xenbus_state_parse("8"), XENBUS_RECONFIGURED);
    assert_string_equal(xenbus_state_name(XENBUS_INIT_WAIT), "InitWait");
    assert_string_equal(xenbus_state_name((enum xenbus_state)77), "?");
    assert_string_equal(xenbus_action_name(XENBUS_DO_SERVE), "serve");
    assert_false(xenbus_may_go(XENBUS_INIT_WAIT, XENBUS_INITIALISED)); /* 3 is never published */
    assert_false(xenbus_may_go(XENBUS_INITIALISING, XENBUS_CONNECTED));
    assert_false(xenbus_may_go((enum xenbus_state)99, XENBUS_CLOSED));
}

static void devices_have_names_and_numbers(void **state)
{
    static const struct {
        const char *name;
        uint32_t devid;
    } both[] = {
        {"xvda", 51712},
        {"xvda1", 51713},
        {"xvdb", 51728},
        {"xvdp15", 51967},
        {"xvda16", 1u << 28 | 16},
        {"xvdq", 1u << 28 | 16 << 8},
        {"xvdz", 1u << 28 | 25 << 8},
        {"xvdaa", 1u << 28 | 26 << 8},
        {"xvdab255", 1u << 28 | 27 << 8 | 255},
        {"xvdzz", 1u << 28 | 701 << 8},
        {"xvdaaa", 1u << 28 | 702 << 8},
        {"hda", 3 << 8},
        {"hdb63", 3 << 8 | 64 | 63},
        {"hdc", 22 << 8},
        {"hdd1", 22 << 8 | 64 | 1},
        {"sda", 8 << 8},
        {"sdp15", 8 << 8 | 255},
        {"512", 512},
        {"536870912", 1u << 29},
    };
    static const char *const junk[] = {"",          "xvd",     "xvd1",        "XVDA",   "xvda0",
                                       "xvda01",    "xvda256", "xvda ",       "xvda1x", "hde",
                                       "hda64",     "sdq",     "sda16",       "vda",    "hd",
                                       "xvdzzzzzz", "-1",      "99999999999", "12x"};
    char name[24];
    uint32_t devid = 7;

    (void)state;
    for (size_t i = 0; i < COUNT(both); i++) {
        assert_int_equal(xenbus_vdev_parse(both[i].name, &devid), 0);
        assert_int_equal(devid, both[i].devid);
        assert_int_equal(xenbus_vdev_name(both[i].devid, name, sizeof(name)), 0);
        assert_string_equal(name, both[i].name);
    }
    devid = 7;
    for (size_t i = 0; i < COUNT(junk); i++)
        assert_int_equal(xenbus_vdev_parse(junk[i], &devid), -EINVAL);
    assert_int_equal(devid, 7);
    assert_int_equal(xenbus_vdev_name(51712, name, 4), -ENOSPC);
    for (uint32_t any = 0; any < UINT32_MAX - 4099; any += 4099) /* all have some name */
        assert_int_equal(xenbus_vdev_name(any, name, sizeof(name)), 0);
}

static void paths_are_taken_apart(void **state)
{
    static const char root[] = "/local/domain/0/backend/vbd";
    static const struct {
        const char *path;
        int ret;
        struct xenbus_place place;
    } rows[] = {
        {"/local/domain/0/backend/vbd", 0, {.depth = 0, .leaf = ""}},
        {"/local/domain/0/backend", 0, {.depth = 0, .leaf = ""}},
        {"/local", 0, {.depth = 0, .leaf = ""}},
        {"/local/domain/0/backend/vbd/5", 0, {1, 5, 0, ""}},
        {"/local/domain/0/backend/vbd/5/51712", 0, {2, 5, 51712, ""}},
        {"/local/domain/0/backend/vbd/5/51712/state", 0, {3, 5, 51712, "state"}},
        {"/local/domain/0/backend/vbd/5/51712/queue-0/x", 0, {3, 5, 51712, "queue-0/x"}},
        {"/local/domain/0/backend/vbd3/5/51712", -EINVAL, {0}},
        {"/local/domain/0/backen", -EINVAL, {0}},
        {"/local/domain/1/backend/vbd/5", -EINVAL, {0}},
        {"/local/domain/0/backend/vbd/x/51712", -EINVAL, {0}},
        {"/local/domain/0/backend/vbd/05/51712", -EINVAL, {0}},
        {"/local/domain/0/backend/vbd//51712", -EINVAL, {0}},
        {"/local/domain/0/backend/vbd/32752/51712", -EINVAL, {0}},
        {"/local/domain/0/backend/vbd/5/99999999999", -EINVAL, {0}},
        {"/local/domain/0/backend/vbd/5/1111111111111111111111111111111111", -EINVAL, {0}},
        {"@releaseDomain", -EINVAL, {0}},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct xenbus_place place = {0};

        assert_int_equal(xenbus_place_parse(rows[i].path, root, &place), rows[i].ret);
        if (rows[i].ret < 0)
            continue;
        assert_int_equal(place.depth, rows[i].place.depth);
        assert_int_equal(place.domid, rows[i].place.domid);
        assert_int_equal(place.devid, rows[i].place.devid);
        assert_string_equal(place.leaf, rows[i].place.leaf);
    }
}

/* The reaction table. Usual in every row unless it says otherwise: online, the gate open, state 2
 * ours to write, known == own. */
struct row {
    const char *what;
    enum xenbus_state own, frontend;
    enum xenbus_life life;
    enum xenbus_action action;
    const char *flags; /* o: not online, g: gate closed, u: 2 is not ours to write, d: domain dead,
                        * n: renewed, p: rings anew, s: spent, c: unclean, r: resumed,
                        * R: we remove B, 4: known was 4, U: 5 is ours to write */
};

#define LIFE(name) XENBUS_LIFE_##name
#define DO(name)   XENBUS_DO_##name

static const struct row rows[] = {
    /* first connect */
    {"found", 1, 1, LIFE(NONE), DO(OPEN), ""},
    {"server is asked", 1, 1, LIFE(OPENING), DO(NOTHING), ""},
    {"server answered", 1, 1, LIFE(READY), DO(OFFER), ""},
    {"xen-blkback is to write 2", 1, 1, LIFE(READY), DO(NOTHING), "u"},
    {"OVMF does not wait for 2", 1, 4, LIFE(READY), DO(OFFER), ""},
    {"waits for the guest", 2, 1, LIFE(READY), DO(NOTHING), ""},
    {"guest's rings", 2, 3, LIFE(READY), DO(CONNECT), ""},
    {"guest's rings (OVMF)", 2, 4, LIFE(READY), DO(CONNECT), ""},
    {"guest's rings, script not done", 2, 3, LIFE(READY), DO(NOTHING), "g"},
    {"guest's rings, server slow", 2, 3, LIFE(OPENING), DO(NOTHING), ""},
    {"rings are being mapped", 2, 3, LIFE(CONNECTING), DO(NOTHING), ""},
    {"rings served", 2, 3, LIFE(CONNECTED), DO(SERVE), ""},
    {"connected", 4, 4, LIFE(SERVING), DO(NOTHING), ""},
    {"GRUB stays at 3", 4, 3, LIFE(SERVING), DO(NOTHING), ""},
    {"frontend not there yet", 1, 0, LIFE(NONE), DO(NOTHING), ""},
    /* trouble with the server */
    {"no server, script reports it", 1, 1, LIFE(BROKEN), DO(CLOSE), "gu"},
    {"... it needs state 2 to run", 1, 1, LIFE(NONE), DO(NOTHING), "gus"},
    {"... and nobody else writes it", 1, 1, LIFE(NONE), DO(OFFER), "gs"},
    {"... waits for the toolstack", 2, 1, LIFE(NONE), DO(NOTHING), "gs"},
    {"... handed over in spite of it", 2, 1, LIFE(NONE), DO(FAIL), "s"},
    {"no server, no script", 1, 1, LIFE(BROKEN), DO(FAIL), ""},
    {"no server, handed over", 2, 3, LIFE(BROKEN), DO(FAIL), ""},
    {"no server, not handed over", 2, 3, LIFE(BROKEN), DO(CLOSE), "g"},
    {"no second try unasked", 5, 1, LIFE(NONE), DO(NOTHING), "s"},
    {"rings refused", 2, 3, LIFE(BROKEN), DO(FAIL), ""},
    {"refused, guest stays", 5, 3, LIFE(NONE), DO(NOTHING), "s"},
    {"refused, guest closes", 5, 6, LIFE(NONE), DO(CLOSED), "s"},
    {"refused, guest comes again", 6, 1, LIFE(NONE), DO(OFFER), ""},
    {"server lost", 4, 4, LIFE(BROKEN), DO(FAIL), ""},
    {"server lost while closing", 5, 5, LIFE(BROKEN), DO(FAIL), ""},
    {"failed, guest still there", 5, 4, LIFE(FAILED), DO(NOTHING), "s"},
    {"failed, guest closes", 5, 6, LIFE(FAILED), DO(CLOSE), "s"},
    {"failed, guest starts anew", 5, 1, LIFE(FAILED), DO(CLOSE), ""},
    {"... closed, begins", 5, 1, LIFE(NONE), DO(OFFER), ""},
    /* close */
    {"guest closes", 4, 5, LIFE(SERVING), DO(CLOSING), ""},
    {"serves on till 6", 5, 5, LIFE(SERVING), DO(NOTHING), ""},
    {"guest closed", 5, 6, LIFE(SERVING), DO(CLOSE), ""},
    {"draining", 5, 6, LIFE(CLOSING), DO(NOTHING), ""},
    {"drained", 5, 6, LIFE(NONE), DO(CLOSED), ""},
    {"over", 6, 6, LIFE(NONE), DO(NOTHING), ""},
    {"closed, and closes once more", 6, 5, LIFE(NONE), DO(CLOSING), ""},
    {"... not plugged in any more", 6, 5, LIFE(NONE), DO(NOTHING), "o"},
    {"over, not plugged in any more", 6, 6, LIFE(NONE), DO(NOTHING), "o"},
    {"... in a driver domain", 6, 6, LIFE(NONE), DO(REMOVE), "oR"},
    {"... but still plugged in", 6, 6, LIFE(NONE), DO(NOTHING), "R"},
    {"... and the frontend begins anew", 6, 1, LIFE(NONE), DO(REMOVE), "oR"},
    {"... or never noticed", 6, 4, LIFE(NONE), DO(REMOVE), "oR"},
    {"... not before it is drained", 6, 1, LIFE(CLOSING), DO(NOTHING), "oR"},
    {"GRUB goes straight to 6", 4, 6, LIFE(SERVING), DO(CLOSE), ""},
    {"... drained", 4, 6, LIFE(NONE), DO(CLOSED), ""},
    {"... and comes again", 6, 1, LIFE(NONE), DO(OFFER), ""},
    {"... not plugged in any more", 6, 1, LIFE(NONE), DO(NOTHING), "o"},
    {"... is to open again", 2, 1, LIFE(NONE), DO(OPEN), ""},
    {"OVMF goes 6, 1, 4 unwatched", 6, 4, LIFE(NONE), DO(OFFER), ""},
    {"Windows closes first", 2, 5, LIFE(READY), DO(CLOSING), ""},
    {"Windows closed", 5, 6, LIFE(READY), DO(CLOSE), ""},
    {"Windows closes before 2", 1, 5, LIFE(READY), DO(OFFER), ""},
    {"frontend directory removed", 4, 0, LIFE(SERVING), DO(CLOSE), ""},
    {"... drained", 4, 0, LIFE(NONE), DO(CLOSED), ""},
    {"domain dead, nodes stay", 4, 4, LIFE(SERVING), DO(CLOSE), "d"},
    {"... drained", 4, 4, LIFE(NONE), DO(CLOSED), "d"},
    {"domain dead before 2", 1, 1, LIFE(NONE), DO(CLOSED), "d"},
    /* toolstack */
    {"unplug, guest at work", 5, 4, LIFE(SERVING), DO(NOTHING), "o"},
    {"unplug, guest never came", 5, 1, LIFE(READY), DO(CLOSE), "o"},
    {"... closed", 5, 1, LIFE(NONE), DO(CLOSED), "o"},
    {"unplug, guest gone", 5, 0, LIFE(SERVING), DO(CLOSE), "o"},
    {"destroyed before 2, and no state 5", 1, 0, LIFE(NONE), DO(CLOSED), "o"},
    {"asked to close, connected", 4, 4, LIFE(SERVING), DO(CLOSING), "oU"},
    {"... and unclean", 4, 4, LIFE(NONE), DO(CLOSING), "oUc"},
    {"... and released", 4, 4, LIFE(NONE), DO(CLOSING), "oUr"},
    {"... and broken", 4, 4, LIFE(BROKEN), DO(FAIL), "oU"},
    {"... and closing", 5, 4, LIFE(SERVING), DO(NOTHING), "oU"},
    {"asked to close, never came", 2, 1, LIFE(READY), DO(CLOSING), "oU"},
    {"... nor were we ready", 1, 1, LIFE(OPENING), DO(CLOSING), "oU"},
    {"asked to close, closed", 6, 6, LIFE(NONE), DO(NOTHING), "oU"},
    {"... and begun again", 6, 1, LIFE(NONE), DO(NOTHING), "oU"},
    {"node removed", 0, 4, LIFE(SERVING), DO(FORGET), ""},
    {"node removed while draining", 0, 0, LIFE(CLOSING), DO(FORGET), ""},
    {"node made anew", 1, 1, LIFE(SERVING), DO(RENEW), "4"},
    {"node made anew, 2 by xen-blkback", 2, 1, LIFE(SERVING), DO(RENEW), "4"},
    {"node made anew in state 1", 1, 1, LIFE(READY), DO(RENEW), "n"},
    {"our mark is gone, but connected", 4, 4, LIFE(SERVING), DO(NOTHING), "n"},
    /* a guest that starts anew without goodbye */
    {"kexec", 4, 1, LIFE(SERVING), DO(CLOSE), ""},
    {"... drained", 4, 1, LIFE(NONE), DO(OFFER), ""},
    {"new rings", 4, 3, LIFE(SERVING), DO(CLOSE), "p"},
    {"... drained", 4, 3, LIFE(NONE), DO(OPEN), "p"},
    {"... server answered", 4, 3, LIFE(READY), DO(CONNECT), "p"},
    {"... served", 4, 3, LIFE(CONNECTED), DO(SERVE), ""},
    {"new rings and 4 in one go (OVMF)", 4, 4, LIFE(SERVING), DO(CLOSE), "p"},
    {"back to 1 while being mapped", 2, 1, LIFE(CONNECTING), DO(CLOSE), ""},
    {"back to 1 once served", 2, 1, LIFE(CONNECTED), DO(CLOSE), ""},
    {"unknown frontend states", 4, 7, LIFE(SERVING), DO(NOTHING), ""},
    {"unknown backend states", 3, 3, LIFE(NONE), DO(NOTHING), ""},
    /* a daemon that starts */
    {"released: opens", 4, 4, LIFE(NONE), DO(OPEN), "r"},
    {"released: connects", 4, 4, LIFE(READY), DO(CONNECT), "r"},
    {"released: serves", 4, 4, LIFE(CONNECTED), DO(SERVE), "r"},
    {"released, unplugged meanwhile: serves", 5, 4, LIFE(NONE), DO(OPEN), "ro"},
    {"... connects", 5, 4, LIFE(READY), DO(CONNECT), "ro"},
    {"... stays at 5", 5, 4, LIFE(CONNECTED), DO(NOTHING), "ro"},
    {"released, guest closing: serves", 5, 5, LIFE(NONE), DO(OPEN), "r"},
    {"unclean: held", 4, 4, LIFE(NONE), DO(HOLD), "c"},
    {"unclean: held at 5", 5, 4, LIFE(NONE), DO(HOLD), "c"},
    {"unclean: follows a close", 4, 5, LIFE(NONE), DO(CLOSING), "c"},
    {"unclean: closed", 5, 6, LIFE(NONE), DO(CLOSED), "c"},
    {"unclean: kexec", 4, 1, LIFE(NONE), DO(OFFER), "c"},
    {"closing, nobody serves", 5, 4, LIFE(NONE), DO(NOTHING), ""},
    {"all closed", 6, 6, LIFE(NONE), DO(NOTHING), ""},
};

static struct xenbus_view row_view(const struct row *row)
{
    return (struct xenbus_view){
        .own = row->own,
        .known = strchr(row->flags, '4') ? XENBUS_CONNECTED : row->own,
        .frontend = row->frontend,
        .life = row->life,
        .online = !strchr(row->flags, 'o'),
        .gate_open = !strchr(row->flags, 'g'),
        .may_offer = !strchr(row->flags, 'u'),
        .frontend_dead = strchr(row->flags, 'd'),
        .renewed = strchr(row->flags, 'n'),
        .rings_anew = strchr(row->flags, 'p'),
        .spent = strchr(row->flags, 's'),
        .unclean = strchr(row->flags, 'c'),
        .resumed = strchr(row->flags, 'r'),
        .remove = strchr(row->flags, 'R'),
        .unplug = strchr(row->flags, 'U'),
    };
}

static void the_reaction_table(void **state)
{
    unsigned wrong = 0;

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct xenbus_view view = row_view(&rows[i]);
        enum xenbus_action action = xenbus_decide(&view);

        if (action == rows[i].action)
            continue;
        print_error("%s: %s instead of %s\n", rows[i].what, xenbus_action_name(action),
                    xenbus_action_name(rows[i].action));
        wrong++;
    }
    assert_int_equal(wrong, 0);
}

/* What the vbd makes of an action, when server and worker do (`well`) or do not do their part. */
static bool carry_out(struct xenbus_view *view, enum xenbus_action action, bool well)
{
    enum xenbus_state before = view->own;

    switch (action) {
    case XENBUS_DO_OPEN:
        if (view->life != XENBUS_LIFE_NONE)
            return false;
        view->life = XENBUS_LIFE_OPENING;
        break;
    case XENBUS_DO_CONNECT:
        if (view->life != XENBUS_LIFE_READY)
            return false;
        view->life = XENBUS_LIFE_CONNECTING;
        view->rings_anew = false;
        break;
    case XENBUS_DO_SERVE:
        if (view->life != XENBUS_LIFE_CONNECTED)
            return false;
        view->own = XENBUS_CONNECTED;
        view->life = XENBUS_LIFE_SERVING;
        break;
    case XENBUS_DO_FAIL:
        if (view->life != XENBUS_LIFE_BROKEN && view->life != XENBUS_LIFE_NONE)
            return false;
        view->own = XENBUS_CLOSING;
        view->life = view->life == XENBUS_LIFE_NONE ? XENBUS_LIFE_NONE
                     : well                         ? XENBUS_LIFE_FAILED
                                                    : XENBUS_LIFE_CLOSING;
        view->spent = true;
        break;
    case XENBUS_DO_CLOSE:
        if (view->life == XENBUS_LIFE_NONE || view->life == XENBUS_LIFE_CLOSING)
            return false;
        if (view->life == XENBUS_LIFE_BROKEN)
            view->spent = true;
        view->life = XENBUS_LIFE_CLOSING;
        break;
    case XENBUS_DO_OFFER: view->own = XENBUS_INIT_WAIT; break;
    case XENBUS_DO_CLOSING: view->own = XENBUS_CLOSING; break;
    case XENBUS_DO_CLOSED: view->own = XENBUS_CLOSED; break;
    default: return false;
    }
    if (view->own != before && !xenbus_may_go(before, view->own))
        return false;
    view->known = view->own;
    return true;
}

static bool disk_moves(struct xenbus_view *view, bool well)
{
    switch (view->life) {
    case XENBUS_LIFE_OPENING: view->life = well ? XENBUS_LIFE_READY : XENBUS_LIFE_BROKEN; break;
    case XENBUS_LIFE_CONNECTING:
        view->life = well ? XENBUS_LIFE_CONNECTED : XENBUS_LIFE_BROKEN;
        break;
    case XENBUS_LIFE_CLOSING: view->life = XENBUS_LIFE_NONE; break;
    default: return false;
    }
    return true;
}

/* From every view that can be put together, with a guest and toolstack that stay as they are: each
 * action is one the vbd can carry out, each state written follows an arrow, 3 is never written,
 * and all comes to rest (no guest can make us spin by standing still). */
static void comes_to_rest(struct xenbus_view view, bool well)
{
    const struct xenbus_view start = view;

    for (unsigned step = 0; step < 16; step++) {
        enum xenbus_action action = xenbus_decide(&view);

        switch (action) {
        case XENBUS_DO_FORGET:
        case XENBUS_DO_RENEW:
        case XENBUS_DO_REMOVE: return;
        case XENBUS_DO_NOTHING:
        case XENBUS_DO_HOLD:
            if (!disk_moves(&view, well))
                return;
            continue;
        default: break;
        }
        if (!carry_out(&view, action, well))
            fail_msg("%s at own %d frontend %d life %d (started: own %d life %d)",
                     xenbus_action_name(action), view.own, view.frontend, view.life, start.own,
                     start.life);
    }
    fail_msg(
        "does not rest: own %d known %d frontend %d life %d online %d gate %d offer %d spent %d "
        "unclean %d resumed %d",
        start.own, start.known, start.frontend, start.life, start.online, start.gate_open,
        start.may_offer, start.spent, start.unclean, start.resumed);
}

static void every_view_is_legal_and_comes_to_rest(void **state)
{
    (void)state;
    for (unsigned bits = 0; bits < 1u << 13; bits++) {
        struct xenbus_view view = {
            .online = bits & 1,
            .frontend_dead = bits & 2,
            .gate_open = bits & 4,
            .may_offer = bits & 8,
            .renewed = bits & 16,
            .rings_anew = bits & 32,
            .spent = bits & 64,
            .unclean = bits & 128,
            .resumed = bits & 256,
            .remove = bits & 512,
            .unplug = bits & 4096,
        };
        bool well = bits & 1024;
        bool found = bits & 2048; /* known nothing of it before */

        for (unsigned own = 0; own <= 8; own++) {
            for (unsigned frontend = 0; frontend <= 8; frontend++) {
                for (unsigned life = 0; life <= XENBUS_LIFE_CLOSING; life++) {
                    view.own = own;
                    view.known = found ? XENBUS_ABSENT : own;
                    view.frontend = frontend;
                    view.life = life;
                    comes_to_rest(view, well);
                }
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_digits_and_nothing_else),
        cmocka_unit_test(states_are_one_to_eight),
        cmocka_unit_test(devices_have_names_and_numbers),
        cmocka_unit_test(paths_are_taken_apart),
        cmocka_unit_test(the_reaction_table),
        cmocka_unit_test(every_view_is_legal_and_comes_to_rest),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
