/* What libxengnttab and libxenevtchn promise, and the daemon relies on, checked one by one.
 *
 * Only public headers, so that the same program judges the stand-ins here and the real drivers in
 * a real domain 0 (as root; needs the gntdev, gntalloc and evtchn modules). It grants its own
 * pages to its own domain and talks to itself; processes that must die are itself, run again.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xenevtchn.h>
#include <xengnttab.h>

#define PAGE    4096u
#define OWN     0u /* our own domid */
#define OTHER   4321u
#define BAD_REF 0x7ffffff0u

#define CHECK(condition) check((condition), #condition, __func__, __LINE__)

static unsigned nr_checks, nr_failed;
static const char *self;

static void check(bool ok, const char *text, const char *where, int line)
{
    nr_checks++;
    if (ok)
        return;
    nr_failed++;
    fprintf(stderr, "conform: %s:%d: does not hold: %s (errno %s)\n", where, line, text,
            strerror(errno));
}

/* Runs `conform ARG...` and returns its pid. */
static pid_t child_start(const char *what, evtchn_port_t port)
{
    extern char **environ;
    char number[16];
    char *argv[] = {(char *)(uintptr_t)self, (char *)(uintptr_t)what, number, NULL};
    pid_t pid;

    snprintf(number, sizeof(number), "%u", port);
    if (posix_spawn(&pid, self, NULL, NULL, argv, environ)) {
        perror("conform: posix_spawn");
        exit(2);
    }
    return pid;
}

static int child_wait(pid_t pid)
{
    int status;

    if (waitpid(pid, &status, 0) != pid)
        return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static bool readable_in(xenevtchn_handle *xce, int timeout_ms)
{
    struct pollfd fd = {.fd = xenevtchn_fd(xce), .events = POLLIN};

    return poll(&fd, 1, timeout_ms) == 1;
}

static bool readable(xenevtchn_handle *xce)
{
    return readable_in(xce, 50);
}

/* Grants. */

struct pages {
    xengntshr_handle *share;
    xengnttab_handle *tab;
    uint8_t *granted;
    uint8_t *local; /* four pages */
    uint32_t refs[4];
};

static xengnttab_grant_copy_segment_t from_grant(uint32_t ref, uint16_t offset, void *to,
                                                 uint16_t len)
{
    xengnttab_grant_copy_segment_t seg = {.flags = GNTCOPY_source_gref, .len = len, .status = 77};

    seg.source.foreign.ref = ref;
    seg.source.foreign.domid = OWN;
    seg.source.foreign.offset = offset;
    seg.dest.virt = to;
    return seg;
}

static xengnttab_grant_copy_segment_t to_grant(uint32_t ref, uint16_t offset, void *from,
                                               uint16_t len)
{
    xengnttab_grant_copy_segment_t seg = {.flags = GNTCOPY_dest_gref, .len = len, .status = 77};

    seg.dest.foreign.ref = ref;
    seg.dest.foreign.domid = OWN;
    seg.dest.foreign.offset = offset;
    seg.source.virt = from;
    return seg;
}

static void pages_fill(struct pages *p)
{
    size_t i;

    for (i = 0; i < 4 * PAGE; i++) {
        p->granted[i] = (uint8_t)(i * 7 + i / PAGE + 1);
        p->local[i] = (uint8_t)(i * 3 + 11);
    }
}

static void copy_moves_exact_bytes(struct pages *p)
{
    xengnttab_grant_copy_segment_t segs[2];
    uint8_t before[PAGE];

    pages_fill(p);
    segs[0] = from_grant(p->refs[1], 512, p->local + 100, 1024);
    CHECK(xengnttab_grant_copy(p->tab, 1, segs) == 0);
    CHECK(segs[0].status == GNTST_okay);
    CHECK(memcmp(p->local + 100, p->granted + PAGE + 512, 1024) == 0);
    CHECK(p->local[99] == (uint8_t)(99 * 3 + 11) && p->local[1124] == (uint8_t)(1124 * 3 + 11));

    pages_fill(p);
    memcpy(before, p->granted, PAGE);
    segs[0] = to_grant(p->refs[0], 3584, p->local + 5, 512);
    segs[1] = to_grant(p->refs[0], 0, p->local, 0);
    CHECK(xengnttab_grant_copy(p->tab, 2, segs) == 0);
    CHECK(segs[0].status == GNTST_okay && segs[1].status == GNTST_okay);
    CHECK(memcmp(p->granted, before, 3584) == 0);
    CHECK(memcmp(p->granted + 3584, p->local + 5, 512) == 0);
    CHECK(xengnttab_grant_copy(p->tab, 0, segs) == 0);
}

static void copy_crosses_local_pages(struct pages *p)
{
    xengnttab_grant_copy_segment_t seg;

    pages_fill(p);
    seg = from_grant(p->refs[2], 0, p->local + PAGE - 700, PAGE);
    CHECK(xengnttab_grant_copy(p->tab, 1, &seg) == 0);
    CHECK(seg.status == GNTST_okay);
    CHECK(memcmp(p->local + PAGE - 700, p->granted + 2 * PAGE, PAGE) == 0);
}

static void copy_segments_run_in_order(struct pages *p)
{
    xengnttab_grant_copy_segment_t segs[40];
    unsigned i;

    pages_fill(p);
    for (i = 0; i < 40; i++)
        segs[i] = from_grant(p->refs[0], (uint16_t)(i * 64), p->local, 64);
    CHECK(xengnttab_grant_copy(p->tab, 40, segs) == 0);
    CHECK(memcmp(p->local, p->granted + 39 * 64, 64) == 0);
}

static void copy_beyond_the_page_is_einval(struct pages *p)
{
    xengnttab_grant_copy_segment_t segs[20];
    unsigned i;

    pages_fill(p);
    segs[0] = from_grant(p->refs[0], 4095, p->local, 2);
    errno = 0;
    CHECK(xengnttab_grant_copy(p->tab, 1, segs) == -1 && errno == EINVAL);
    segs[0].flags = 0;
    errno = 0;
    CHECK(xengnttab_grant_copy(p->tab, 1, segs) == -1 && errno == EINVAL);

    /* The seventeenth makes the first sixteen run; then the twentieth ends it all. */
    for (i = 0; i < 19; i++)
        segs[i] = from_grant(p->refs[0], 0, p->local + i * 128, 128);
    segs[19] = from_grant(p->refs[0], 4000, p->local, 128);
    CHECK(xengnttab_grant_copy(p->tab, 20, segs) == -1 && errno == EINVAL);
    CHECK(memcmp(p->local + 15 * 128, p->granted, 128) == 0);
    CHECK(p->local[16 * 128] == (uint8_t)(16 * 128 * 3 + 11));
    CHECK(segs[18].status == GNTST_okay); /* although it was not copied */
}

static void copy_reports_bad_grants_alone(struct pages *p)
{
    xengnttab_grant_copy_segment_t segs[4];

    pages_fill(p);
    segs[0] = from_grant(BAD_REF, 0, p->local, 512);
    segs[1] = from_grant(p->refs[0], 0, p->local + 512, 512);
    segs[2] = from_grant(p->refs[0], 0, p->local + 1024, 512);
    segs[2].source.foreign.domid = OTHER;
    segs[3] = from_grant(p->refs[1], 0, p->local + PAGE, PAGE);
    CHECK(xengnttab_grant_copy(p->tab, 4, segs) == 0);
    CHECK(segs[0].status == GNTST_bad_gntref);
    CHECK(segs[1].status == GNTST_okay);
    CHECK(segs[2].status == GNTST_bad_domain);
    CHECK(segs[3].status == GNTST_okay);
    CHECK(p->local[0] == 11);
    CHECK(memcmp(p->local + 512, p->granted, 512) == 0);
}

static void copy_respects_permissions(struct pages *p)
{
    xengnttab_grant_copy_segment_t segs[3];
    uint32_t ro_ref, foreign_ref;
    uint8_t *ro = xengntshr_share_pages(p->share, OWN, 1, &ro_ref, 0);
    uint8_t *foreign = xengntshr_share_pages(p->share, OTHER, 1, &foreign_ref, 1);

    CHECK(ro && foreign);
    if (!ro || !foreign)
        return;
    memset(ro, 0x5a, PAGE);
    segs[0] = from_grant(ro_ref, 0, p->local, 512);
    segs[1] = from_grant(foreign_ref, 0, p->local + 512, 512);
    CHECK(xengnttab_grant_copy(p->tab, 2, segs) == 0);
    CHECK(segs[0].status == GNTST_okay && p->local[511] == 0x5a);
    CHECK(segs[1].status == GNTST_general_error);
    segs[2] = to_grant(ro_ref, 0, p->local + PAGE, 512);
    CHECK(xengnttab_grant_copy(p->tab, 1, &segs[2]) == 0);
    CHECK(segs[2].status == GNTST_general_error && ro[0] == 0x5a);
    CHECK(xengnttab_map_grant_ref(p->tab, OWN, ro_ref, PROT_READ | PROT_WRITE) == NULL);

    CHECK(xengntshr_unshare(p->share, ro, 1) == 0);
    segs[0] = from_grant(ro_ref, 0, p->local, 512);
    CHECK(xengnttab_grant_copy(p->tab, 1, segs) == 0);
    CHECK(segs[0].status == GNTST_general_error); /* revoked */
    CHECK(xengntshr_unshare(p->share, foreign, 1) == 0);
}

static void map_is_contiguous_and_shared(struct pages *p)
{
    uint32_t refs[3] = {p->refs[3], p->refs[0], p->refs[3]};
    volatile uint8_t *shared; /* one frame at three addresses: nothing a compiler may assume */
    uint8_t *map;

    pages_fill(p);
    map = xengnttab_map_domain_grant_refs(p->tab, 3, OWN, refs, PROT_READ | PROT_WRITE);
    CHECK(map != NULL);
    if (!map)
        return;
    CHECK(memcmp(map, p->granted + 3 * PAGE, PAGE) == 0);
    CHECK(memcmp(map + PAGE, p->granted, PAGE) == 0);
    shared = map;
    shared[2 * PAGE + 9] = 0xee;
    CHECK(shared[9] == 0xee);
    shared = p->granted;
    CHECK(shared[3 * PAGE + 9] == 0xee);
    errno = 0;
    CHECK(xengnttab_unmap(p->tab, map, 2) == -1 && errno == EINVAL);
    CHECK(xengnttab_unmap(p->tab, map, 3) == 0);
}

static void map_is_all_or_nothing(struct pages *p)
{
    uint32_t refs[3] = {p->refs[0], BAD_REF, p->refs[1]}, domids[2] = {OWN, OTHER};

    errno = 0;
    CHECK(xengnttab_map_domain_grant_refs(p->tab, 3, OWN, refs, PROT_READ) == NULL);
    CHECK(errno == EINVAL);
    CHECK(xengnttab_map_grant_refs(p->tab, 2, domids, refs, PROT_READ) == NULL);
    CHECK(errno == EINVAL);
}

static void copy_refuses_mapped_memory(struct pages *p)
{
    xengnttab_grant_copy_segment_t seg;
    uint8_t *map = xengnttab_map_grant_ref(p->tab, OWN, p->refs[0], PROT_READ | PROT_WRITE);

    CHECK(map != NULL);
    if (!map)
        return;
    seg = from_grant(p->refs[1], 0, map, 512);
    errno = 0;
    CHECK(xengnttab_grant_copy(p->tab, 1, &seg) == -1 && errno == EFAULT);
    CHECK(xengnttab_unmap(p->tab, map, 1) == 0);
}

static void grants(void)
{
    struct pages p = {.share = xengntshr_open(NULL, 0), .tab = xengnttab_open(NULL, 0)};

    CHECK(p.share && p.tab);
    p.local = aligned_alloc(PAGE, 4 * PAGE);
    if (!p.share || !p.tab || !p.local)
        return;
    p.granted = xengntshr_share_pages(p.share, OWN, 4, p.refs, 1);
    CHECK(p.granted != NULL);
    if (p.granted) {
        CHECK(xengnttab_set_max_grants(p.tab, 64) == 0);
        copy_moves_exact_bytes(&p);
        copy_crosses_local_pages(&p);
        copy_segments_run_in_order(&p);
        copy_beyond_the_page_is_einval(&p);
        copy_reports_bad_grants_alone(&p);
        copy_respects_permissions(&p);
        map_is_contiguous_and_shared(&p);
        map_is_all_or_nothing(&p);
        copy_refuses_mapped_memory(&p);
        CHECK(xengntshr_unshare(p.share, p.granted, 4) == 0);
    }
    free(p.local);
    CHECK(xengnttab_close(p.tab) == 0);
    CHECK(xengntshr_close(p.share) == 0);
}

/* Event channels: `here` waits with an unbound port, `there` binds to it. */

struct ends {
    xenevtchn_handle *here, *there;
    int waiting, bound;
};

static void ends_open(struct ends *e)
{
    e->here = xenevtchn_open(NULL, 0);
    e->there = xenevtchn_open(NULL, 0);
    if (!e->here || !e->there) {
        perror("conform: xenevtchn_open");
        exit(2);
    }
    fcntl(xenevtchn_fd(e->here), F_SETFL, O_NONBLOCK);
    fcntl(xenevtchn_fd(e->there), F_SETFL, O_NONBLOCK);
    e->waiting = xenevtchn_bind_unbound_port(e->here, OWN);
    CHECK(e->waiting > 0);
    e->bound = xenevtchn_bind_interdomain(e->there, OWN, (evtchn_port_t)e->waiting);
    CHECK(e->bound > 0);
}

static void ends_close(struct ends *e)
{
    xenevtchn_close(e->here);
    xenevtchn_close(e->there);
}

static void take(xenevtchn_handle *xce, int port)
{
    CHECK(xenevtchn_pending(xce) == port);
    CHECK(xenevtchn_unmask(xce, (evtchn_port_t)port) == 0);
}

static void bind_raises_the_port(void)
{
    struct ends e;

    ends_open(&e);
    CHECK(readable(e.there));
    take(e.there, e.bound);
    CHECK(!readable(e.there));
    errno = 0;
    CHECK(xenevtchn_pending(e.there) == -1 && errno == EAGAIN);
    ends_close(&e);
}

static void event_while_masked_comes_at_unmask(void)
{
    struct ends e;

    ends_open(&e);
    CHECK(xenevtchn_pending(e.there) == e.bound);
    CHECK(xenevtchn_notify(e.here, (evtchn_port_t)e.waiting) == 0);
    CHECK(xenevtchn_notify(e.here, (evtchn_port_t)e.waiting) == 0);
    CHECK(!readable(e.there));
    CHECK(xenevtchn_unmask(e.there, (evtchn_port_t)e.bound) == 0);
    CHECK(readable(e.there));
    take(e.there, e.bound);
    CHECK(!readable(e.there)); /* the two were one */
    CHECK(xenevtchn_notify(e.there, (evtchn_port_t)e.bound) == 0);
    CHECK(readable(e.here));
    take(e.here, e.waiting);
    ends_close(&e);
}

static void one_port_per_pending(void)
{
    struct ends e;
    int waiting, bound, first, second;

    ends_open(&e);
    waiting = xenevtchn_bind_unbound_port(e.here, OWN);
    bound = xenevtchn_bind_interdomain(e.there, OWN, (evtchn_port_t)waiting);
    CHECK(bound > 0 && bound != e.bound);
    first = xenevtchn_pending(e.there);
    CHECK(readable(e.there));
    second = xenevtchn_pending(e.there);
    CHECK((first == bound && second == e.bound) || (first == e.bound && second == bound));
    CHECK(!readable(e.there));
    ends_close(&e);
}

static void bind_is_exclusive(void)
{
    struct ends e;

    ends_open(&e);
    errno = 0;
    CHECK(xenevtchn_bind_interdomain(e.there, OWN, (evtchn_port_t)e.waiting) == -1);
    CHECK(errno == EINVAL);
    CHECK(child_wait(child_start("--bind", (evtchn_port_t)e.waiting)) == EINVAL);
    CHECK(xenevtchn_bind_interdomain(e.there, OWN, 4000) == -1 && errno == EINVAL);
    CHECK(xenevtchn_bind_interdomain(e.there, OTHER, 1) == -1 && errno == ESRCH);
    ends_close(&e);
}

static void unbound_port_is_enotconn(void)
{
    struct ends e;

    ends_open(&e);
    errno = 0;
    CHECK(xenevtchn_notify(e.there, 3999) == -1 && errno == ENOTCONN);
    if (e.waiting != e.bound)
        CHECK(xenevtchn_notify(e.there, (evtchn_port_t)e.waiting) == -1 && errno == ENOTCONN);
    CHECK(xenevtchn_unbind(e.there, (evtchn_port_t)e.bound) == 0);
    CHECK(xenevtchn_notify(e.there, (evtchn_port_t)e.bound) == -1 && errno == ENOTCONN);
    CHECK(xenevtchn_unbind(e.there, (evtchn_port_t)e.bound) == -1);
    CHECK(xenevtchn_notify(e.here, (evtchn_port_t)e.waiting) == 0); /* dropped */
    ends_close(&e);
}

static void unbind_lets_another_bind(void)
{
    struct ends e;

    ends_open(&e);
    CHECK(xenevtchn_unbind(e.there, (evtchn_port_t)e.bound) == 0);
    CHECK(child_wait(child_start("--bind", (evtchn_port_t)e.waiting)) == 0);
    /* The child is gone, so its end is free again; and the new bind raises the port. */
    e.bound = xenevtchn_bind_interdomain(e.there, OWN, (evtchn_port_t)e.waiting);
    CHECK(e.bound > 0);
    CHECK(readable(e.there));
    ends_close(&e);
}

/* However long it takes: a process takes time, and a busy machine more. */
static bool child_has_notified(pid_t pid, xenevtchn_handle *xce)
{
    while (!readable_in(xce, 100))
        if (waitpid(pid, NULL, WNOHANG) != 0)
            return false;
    return true;
}

static void death_frees_the_port(void)
{
    struct ends e;
    pid_t pid;

    ends_open(&e);
    CHECK(xenevtchn_unbind(e.there, (evtchn_port_t)e.bound) == 0);
    pid = child_start("--hold", (evtchn_port_t)e.waiting);
    CHECK(child_has_notified(pid, e.here)); /* and so it has bound */
    errno = 0;
    CHECK(xenevtchn_bind_interdomain(e.there, OWN, (evtchn_port_t)e.waiting) == -1);
    CHECK(errno == EINVAL);
    kill(pid, SIGKILL);
    child_wait(pid);
    CHECK(xenevtchn_bind_interdomain(e.there, OWN, (evtchn_port_t)e.waiting) > 0);
    ends_close(&e);
}

static int bind_as_child(const char *what, evtchn_port_t port)
{
    xenevtchn_handle *xce = xenevtchn_open(NULL, 0);
    int bound = xce ? xenevtchn_bind_interdomain(xce, OWN, port) : -1;
    int err = bound < 0 ? errno : 0;

    if (!err && strcmp(what, "--hold") == 0) {
        xenevtchn_notify(xce, (evtchn_port_t)bound);
        pause();
    }
    xenevtchn_close(xce);
    return err;
}

int main(int argc, char **argv)
{
    self = "/proc/self/exe";
    if (argc == 3)
        return bind_as_child(argv[1], (evtchn_port_t)strtoul(argv[2], NULL, 10));
    grants();
    bind_raises_the_port();
    event_while_masked_comes_at_unmask();
    one_port_per_pending();
    bind_is_exclusive();
    unbound_port_is_enotconn();
    unbind_lets_another_bind();
    death_frees_the_port();
    printf("conform: %u checks, %u failed\n", nr_checks, nr_failed);
    return nr_failed != 0;
}
