/* room: what the tests of backend and vbd share: the real xenstored, the toolstack and the guest's
 * nodes from guest.h, and a worker that has no rings and no server: it only answers orders, as
 * told.
 *
 * A test is TEST(name): it finds a fresh room with a running backend and the domain DOMID. Waiting
 * functions fail the test after WAIT_MS. In values of nodes a ':' at the end means "begins so", and
 * NULL that there is no such node.
 */
#ifndef ROOM_H
#define ROOM_H

#include "gateway/backend.h"
#include "gateway/config.h"
#include "guest.h"
#include "stub-worker.h"

enum { DOMID = 5, XVDA = 51712, XVDB = 51728, WAIT_MS = 5000, QUIET_MS = 150, ROOM_DISKS = 4 };

struct room {
    struct worker *worker;
    struct backend *backend;
    struct guest *guest;
    struct tool_disk disk; /* the one attached last */
};

extern struct config_disk room_disks[ROOM_DISKS]; /* root, data (shared), cd (read-only), alias */
extern const struct config room_config;
extern char room_keep[96]; /* where disks would have their kept files: it is not there */

void room_begin(int argc, char **argv);
int room_setup(void **state);
int room_teardown(void **state);

#define TEST(name) cmocka_unit_test_setup_teardown(name, room_setup, room_teardown)

void start(struct room *r); /* the backend, after backend_stop */
void start_with(struct room *r, const struct config_disk *disks);

/* The toolstack, and the guest. */
void attach(struct room *r, const char *kind, const char *params, const char *script);
void second(struct room *r, struct tool_disk *disk, const char *params, bool readonly);
void put(struct room *r, const char *directory, const char *key, const char *value);
void fe(struct room *r, const char *state);
void fe_rings(struct room *r, const char *ref, const char *port, const char *state);
void connect_disk(struct room *r);

/* What is to be seen. */
bool node_is(struct guest *guest, const char *directory, const char *key, const char *value);
void print_node(struct guest *guest, const char *directory, const char *key);
void wait_node(struct guest *guest, const char *directory, const char *key, const char *value);
void stays(struct guest *guest, const char *directory, const char *key, const char *value);
#define wait_be(r, state)   wait_node((r)->guest, (r)->disk.backend, "state", state)
#define be_stays(r, state)  stays((r)->guest, (r)->disk.backend, "state", state)
#define wait_b(r, key, val) wait_node((r)->guest, (r)->disk.backend, key, val)

/* The worker. */
unsigned ask(struct worker *w, const unsigned *counter);
bool opened(struct worker *w, const char *name);
void wait_count(struct worker *w, const unsigned *counter, unsigned value);

void sleep_ms(long ms);

#endif
