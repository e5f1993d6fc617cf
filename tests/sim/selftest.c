/* What conform cannot see through public headers: grants in use, dead domains and their nodes.
 *
 * One process is both backend (through the stand-ins) and guest. Run by selftest.sh. */
#include "guest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <xenevtchn.h>
#include <xengnttab.h>

#define DOMID        7u
#define BATCH_US     400
#define NOTIFY_US    300
#define CHECK(thing) check((thing), #thing, __LINE__)

static unsigned nr_failed;

static void check(bool ok, const char *text, int line)
{
    if (ok)
        return;
    nr_failed++;
    fprintf(stderr, "selftest: line %d: does not hold: %s\n", line, text);
}

static int16_t copy_status(xengnttab_handle *tab, uint32_t ref)
{
    static uint8_t buffer[GUEST_PAGE];
    xengnttab_grant_copy_segment_t seg = {.flags = GNTCOPY_source_gref, .len = 512};

    seg.source.foreign.ref = ref;
    seg.source.foreign.domid = DOMID;
    seg.dest.virt = buffer;
    CHECK(xengnttab_grant_copy(tab, 1, &seg) == 0);
    return seg.status;
}

static void mapped_grant_stays(struct guest *guest, xengnttab_handle *tab)
{
    uint32_t ref = guest_grant(guest, guest_frames_alloc(guest, 1), 0, false);
    void *map = xengnttab_map_grant_ref(tab, DOMID, ref, PROT_READ | PROT_WRITE);

    CHECK(map != NULL);
    CHECK(guest_mapped_grants(guest, DOMID) == 1);
    CHECK(!guest_revoke(guest, ref));
    CHECK(copy_status(tab, ref) == GNTST_okay);
    CHECK(xengnttab_unmap(tab, map, 1) == 0);
    CHECK(guest_mapped_grants(guest, DOMID) == 0);
    CHECK(guest_revoke(guest, ref));
    CHECK(copy_status(tab, ref) == GNTST_general_error);
}

static void port_numbers_come_back(struct guest *guest)
{
    uint32_t first, again, slot;

    CHECK(guest_port_alloc(guest, 0, &first, &slot) == 0);
    guest_port_close(guest, first);
    CHECK(guest_port_alloc(guest, 0, &again, &slot) == 0);
    CHECK(first == again); /* as after kexec: the number alone proves nothing */
    guest_port_close(guest, again);
}

/* A backend in a process of its own: maps, binds, says so, and waits for its end. */
static pid_t backend_start(uint32_t ref, uint32_t port, int *ret_said)
{
    int said[2];
    pid_t pid;

    CHECK(pipe(said) == 0);
    pid = fork();
    if (pid == 0) {
        xengnttab_handle *tab = xengnttab_open(NULL, 0);
        xenevtchn_handle *xce = xenevtchn_open(NULL, 0);

        if (tab && xce && xengnttab_map_domain_grant_refs(tab, 1, DOMID, &ref, PROT_READ) &&
            xenevtchn_bind_interdomain(xce, DOMID, port) > 0 && write(said[1], "", 1) == 1)
            for (;;)
                pause();
        _exit(1);
    }
    close(said[1]);
    *ret_said = said[0];
    return pid;
}

/* As on Xen: its mapping goes, its port is unbound for the same domain, what the guest notifies
 * meanwhile is dropped, and who binds next finds an event. */
static void killed_backend_leaves_nothing(struct guest *guest)
{
    uint32_t ref = guest_grant(guest, guest_frames_alloc(guest, 1), 0, false), port = 0, slot = 0;
    xenevtchn_handle *xce = xenevtchn_open(NULL, 0);
    int said = -1, bound;
    pid_t pid;
    char byte;

    CHECK(xce && guest_port_alloc(guest, 0, &port, &slot) == 0);
    pid = backend_start(ref, port, &said);
    CHECK(read(said, &byte, 1) == 1);
    close(said);
    CHECK(guest_mapped_grants(guest, DOMID) == 1);
    CHECK(xenevtchn_bind_interdomain(xce, DOMID, port) == -1);
    kill(pid, SIGKILL);
    CHECK(waitpid(pid, NULL, 0) == pid);
    CHECK(guest_mapped_grants(guest, DOMID) == 0);
    CHECK(guest_revoke(guest, ref));
    guest_notify(guest, slot);
    bound = xenevtchn_bind_interdomain(xce, DOMID, port);
    CHECK(bound > 0 && xenevtchn_pending(xce) == bound);
    guest_notify(guest, slot); /* and from now on they arrive */
    CHECK(xenevtchn_unmask(xce, (evtchn_port_t)bound) == 0 && xenevtchn_pending(xce) == bound);
    xenevtchn_close(xce);
    guest_port_close(guest, port);
}

static void disk_is_attached_as_by_libxl(struct guest *guest)
{
    struct tool_disk disk = {
        .guest = guest, .devid = 51712, .kind = "qdisk", .params = "data", .vdev = "xvda"};
    unsigned len;
    char *text;

    CHECK(tool_attach(&disk) == 0);
    CHECK(tool_state(&disk) == STATE_INITIALISING);
    text = xs_read(guest->xs, XBT_NULL, "/local/domain/0/backend/qdisk/7/51712/params", &len);
    CHECK(text && strcmp(text, "aio:data") == 0);
    free(text);
}

/* The frontend's nodes are owned by the guest and go with it; a ring that is mapped stays. */
static void death_is_noticed(struct guest *guest, xengnttab_handle *tab)
{
    uint32_t ref = guest_grant(guest, guest_frames_alloc(guest, 1), 0, false);
    uint8_t *map = xengnttab_map_grant_ref(tab, DOMID, ref, PROT_READ | PROT_WRITE);
    struct timespec nap = {.tv_nsec = 5000000};
    struct xs_handle *xs = xs_open(0);
    char **event, *text = NULL;
    int tries;

    CHECK(map && xs && xs_watch(xs, "@releaseDomain", "gone"));
    if (!map || !xs)
        return;
    free(xs_read_watch(xs, &(unsigned){0})); /* once at registration */
    guest_destroy(guest);
    for (tries = 0, event = NULL; !event && tries < 400; tries++) {
        nanosleep(&nap, NULL);
        event = xs_check_watch(xs);
    }
    CHECK(event != NULL);
    free(event);
    text = xs_read(xs, XBT_NULL, "/local/domain/7/device/vbd/51712/state", &(unsigned){0});
    CHECK(text == NULL);
    free(text);
    CHECK(copy_status(tab, ref) == GNTST_bad_domain);
    map[0] = 1; /* still memory */
    CHECK(xengnttab_unmap(tab, map, 1) == 0);
    xs_close(xs);
}

static int64_t clock_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* 17 operations are two hypercalls. */
static void costs_are_spent(struct guest *guest, xengnttab_handle *tab)
{
    static uint8_t buffer[17][GUEST_PAGE] __attribute__((aligned(GUEST_PAGE)));
    uint32_t ref = guest_grant(guest, guest_frames_alloc(guest, 1), 0, true), port, slot;
    xenevtchn_handle *xce = xenevtchn_open(NULL, 0);
    xengnttab_grant_copy_segment_t segs[17] = {0};
    xenevtchn_port_or_error_t local;
    int64_t start_us;
    unsigned i;

    for (i = 0; i < 17; i++) {
        segs[i].flags = GNTCOPY_source_gref;
        segs[i].len = GUEST_PAGE;
        segs[i].source.foreign.ref = ref;
        segs[i].source.foreign.domid = DOMID;
        segs[i].dest.virt = buffer[i];
    }
    start_us = clock_us();
    CHECK(xengnttab_grant_copy(tab, 17, segs) == 0);
    CHECK(clock_us() - start_us >= 2 * BATCH_US);
    CHECK(guest_port_alloc(guest, 0, &port, &slot) == 0);
    local = xce ? xenevtchn_bind_interdomain(xce, DOMID, port) : -1;
    CHECK(local > 0);
    start_us = clock_us();
    CHECK(xenevtchn_notify(xce, (evtchn_port_t)local) == 0);
    CHECK(clock_us() - start_us >= NOTIFY_US);
    CHECK(guest_event_take(guest));
    xenevtchn_close(xce);
    guest_port_close(guest, port);
    CHECK(guest_revoke(guest, ref));
}

int main(void)
{
    struct guest *guest = guest_create(DOMID, 32);
    xengnttab_handle *tab = xengnttab_open(NULL, 0);

    setenv("BLKGATE_SIM_BATCH_NS", "400000", 1);
    setenv("BLKGATE_SIM_NOTIFY_NS", "300000", 1);

    if (!guest || !tab)
        return 2;
    mapped_grant_stays(guest, tab);
    port_numbers_come_back(guest);
    costs_are_spent(guest, tab);
    killed_backend_leaves_nothing(guest);
    disk_is_attached_as_by_libxl(guest);
    death_is_noticed(guest, tab);
    xengnttab_close(tab);
    printf("selftest: %u failed\n", nr_failed);
    return nr_failed != 0;
}
