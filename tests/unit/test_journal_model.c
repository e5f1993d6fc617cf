/*
 * journal_model: every interleaving of a small guest and a small daemon, with the daemon killed
 * between any two of its stores, again after it came back, and while it comes back (laws 2, 5, 8).
 *
 * What runs is the shipped code of proto/journal and proto/ring, compiled into this file so that
 * each of its stores is seen (__atomic_store_n below); the guest, and the order in which a daemon
 * calls that code, are written here. The search is depth first over all choices:
 *
 *     guest    submits a request; takes all responses there are; once, while the daemon is away,
 *              initialises its ring anew without telling anybody (kexec); or changes an index
 *     daemon   takes one request; sends one; has any one of them answered; pushes; flushes
 *     a kill   after any store of the daemon's: what is not in the file or in the ring is gone
 *     start    opens the file, recovers or connects anew, goes on
 *
 * The guest acts while the daemon is down, which stands for all it could do between two stores.
 * States that differ only in names (which nonce, which age) are one. Each step makes progress, so
 * that each path ends; where one ends everything must have been answered.
 *
 * BLKGATE_LONG=1 explores more. Each broken daemon in the list of mutants must be found out: that
 * the search finds nothing means something only if it would have.
 */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void stored(void);

/* The name means the builtin within its own expansion. */
#define __atomic_store_n(at, value, order) (__atomic_store_n(at, value, order), stored())
#include "proto/journal.c"
#include "proto/ring.c"
#undef __atomic_store_n

#define ARRAY_LENGTH(array) (sizeof(array) / sizeof((array)[0]))

enum {
    SLOTS_MAX = 4,
    REQUESTS_MAX = 6,
    LIVES = 2, /* of the ring */
    RECORDS = LIVES * REQUESTS_MAX,
    DATA_BYTES = 2 * LIMIT_PAGE_BYTES, /* nobody looks at it: it is not there */
    FILE_BYTES = 2 * LIMIT_PAGE_BYTES,
    SLOT_BYTES = 112,
    SHARED_BYTES = AT_SLOTS + SLOTS_MAX * SLOT_BYTES,
    DEPTH_MAX = 400,
};

/* Ways to get it wrong. */
enum mutant {
    MUTANT_NONE,
    MUTANT_ENTRY_IS_RING_INDEX,
    MUTANT_ANSWERING_SURVIVES,
    MUTANT_FREE_BEFORE_PUSH,
    MUTANT_INFLIGHT_BEFORE_COPY,
    MUTANT_INFLIGHT_AFTER_NEXT_COPY,
    MUTANT_ANSWERING_NOT_STORED,
    MUTANT_NO_NONCE_CHECK,
    MUTANT_NONCE_AFTER_TAKE,
    MUTANT_NO_INDEX_CHECK,
    MUTANT_DONE_AFTER_PUSH,
    MUTANT_RECORD_BEFORE_LINK,
    MUTANT_FLUSH_RETIRES_SENT,
};

struct config {
    const char *name;
    uint32_t slots, requests, crashes;
    uint32_t again; /* requests of the guest's next life; 0: there is none */
    uint32_t start; /* the ring's indices at first */
    bool tampers;   /* the guest changes an index, once */
    bool records;   /* requests are writes, recorded, and there are flushes */
    bool is_long;
};

/* ---- the state of the world ---- */

struct guest {
    uint32_t req_prod, rsp_cons; /* private */
    uint32_t life, submitted;
    uint32_t answered; /* a bit for each request of this life */
    uint32_t durable;  /* likewise: a flush has covered it */
    bool tampered;
};

/* What a kill leaves. */
struct lasting {
    _Alignas(8) uint8_t file[FILE_BYTES];
    _Alignas(8) uint8_t shared[SHARED_BYTES];
    struct guest guest;
    uint32_t crashes_left;
    uint32_t nonces; /* given so far */
};

struct daemon {
    bool up;
    bool held; /* it keeps its hands off the ring */
    struct ring ring;
    struct journal journal;
    struct journal_queue queue;
    uint32_t scratch[SLOTS_MAX + RECORDS];
};

struct world {
    struct lasting lasting;
    struct daemon daemon;
};

static struct {
    const struct config *config;
    enum mutant mutant;
    struct journal_layout layout;
    struct world *worlds; /* the path that is being searched */
    const char *steps[DEPTH_MAX];
    uint32_t depth;
    bool daemon_acts;    /* in worlds[depth]: its stores are where it may be killed */
    void (*watch)(void); /* or: called at each store */
    uint64_t *seen;      /* hashes of states; open addressing */
    size_t seen_size, seen_count;
    uint64_t kills;
    bool searching;
    jmp_buf violated;
    char violation[256];
} model;

static void violation(const char *what) __attribute__((noreturn));

static void violation(const char *what)
{
    if (!model.searching) {
        print_error("%s\n", what);
        abort();
    }
    snprintf(model.violation, sizeof(model.violation), "%s", what);
    longjmp(model.violated, 1);
}

/* An assertion of the code under test has failed. */
void __assert_fail(const char *text, const char *file, unsigned int line, const char *function)
{
    char what[256];

    snprintf(what, sizeof(what), "%s:%u: %s: %s", file, line, function, text);
    violation(what);
}

static struct world *branch(const char *step)
{
    struct world *world = &model.worlds[model.depth], *next = world + 1;

    model.steps[model.depth] = step;
    assert_true(model.depth + 2 < DEPTH_MAX);
    memcpy(next, world, sizeof(*next));
    next->daemon.journal.memory = next->lasting.file;
    next->daemon.journal.freed_records = next->daemon.scratch;
    next->daemon.queue.journal = &next->daemon.journal;
    next->daemon.ring.shared = next->lasting.shared;
    return next;
}

/* ---- the guest ---- */

static uint32_t *shared32(struct lasting *lasting, uint32_t offset)
{
    return (uint32_t *)(void *)(lasting->shared + offset);
}

static uint8_t *guest_slot(struct lasting *lasting, uint32_t index)
{
    return lasting->shared + AT_SLOTS + (index & (model.config->slots - 1)) * SLOT_BYTES;
}

/* Ids tell life and number. Request n writes sector n, of its life's part of the disk. */
static uint64_t request_id(uint32_t life, uint32_t number)
{
    return 16 * (life + 1) + number;
}

static uint64_t sector_of(uint64_t id)
{
    return (id / 16 - 1) * REQUESTS_MAX + id % 16;
}

static uint32_t requests_of(uint32_t life)
{
    return life == 0 ? model.config->requests : model.config->again;
}

static bool guest_submit(struct lasting *lasting)
{
    struct guest *guest = &lasting->guest;
    uint64_t id = request_id(guest->life, guest->submitted), sector = sector_of(id);
    uint8_t *slot = guest_slot(lasting, guest->req_prod);

    if (guest->submitted == requests_of(guest->life) ||
        guest->req_prod - guest->rsp_cons == model.config->slots)
        return false;
    memset(slot, 0, SLOT_BYTES);
    slot[0] = model.config->records ? BLKIF_WRITE : BLKIF_READ;
    slot[1] = 1;
    memcpy(slot + 8, &id, sizeof(id));
    memcpy(slot + 16, &sector, sizeof(sector));
    guest->submitted++;
    *shared32(lasting, AT_REQ_PROD) = ++guest->req_prod;
    return true;
}

static uint32_t asked(const struct guest *guest, uint64_t id, const char *complaint)
{
    uint32_t number = (uint32_t)(id % 16);

    if (id / 16 != guest->life + 1 || number >= guest->submitted)
        violation(complaint);
    return number;
}

static bool guest_collect(struct lasting *lasting)
{
    struct guest *guest = &lasting->guest;
    uint32_t rsp_prod = *shared32(lasting, AT_RSP_PROD);

    if (rsp_prod == guest->rsp_cons || guest->tampered)
        return false;
    if (rsp_prod - guest->rsp_cons > guest->req_prod - guest->rsp_cons)
        violation("there are more responses than requests");
    while (guest->rsp_cons != rsp_prod) {
        uint32_t number;
        uint64_t id;

        memcpy(&id, guest_slot(lasting, guest->rsp_cons++), sizeof(id));
        number = asked(guest, id, "a response to what was not asked");
        if (guest->answered & 1U << number)
            violation("a request was answered twice");
        guest->answered |= 1U << number;
    }
    return true;
}

/* SHARED_RING_INIT on the same page, and nobody is told. */
static bool guest_initialise(struct lasting *lasting)
{
    if (lasting->guest.life + 1 == LIVES || model.config->again == 0)
        return false;
    memset(lasting->shared, 0, AT_SLOTS);
    lasting->guest = (struct guest){.life = lasting->guest.life + 1};
    return true;
}

enum { TAMPERINGS = 6 };

static bool guest_tamper(struct lasting *lasting, uint32_t how)
{
    uint32_t *rsp_prod = shared32(lasting, AT_RSP_PROD), *req_prod = shared32(lasting, AT_REQ_PROD);

    if (!model.config->tampers || lasting->guest.tampered)
        return false;
    lasting->guest.tampered = true;
    switch (how) {
    case 0: *rsp_prod += 1; break;
    case 1: *rsp_prod -= 1; break;
    case 2: *rsp_prod = *req_prod; break;
    case 3: *req_prod -= 1; break;
    case 4: *req_prod += 1; break;
    default: *req_prod = *rsp_prod + model.config->slots + 1; break;
    }
    return true;
}

/* ---- the daemon: the order of calls that the gateway must keep, or break as a mutant ---- */

static bool is_mutant(enum mutant mutant)
{
    return model.mutant == mutant;
}

static uint64_t entry_id(const struct journal_entry *entry)
{
    uint64_t id;

    memcpy(&id, entry->slot + 8, sizeof(id));
    return id;
}

/* Copies two slots, and stores INFLIGHT of the second one first. */
static void take_two(struct daemon *daemon)
{
    struct journal_queue *queue = &daemon->queue;
    uint16_t *top = &queue->free[queue->free_count - 1], first = top[0], second = top[-1];

    ring_take(&daemon->ring, journal_next_slot(queue));
    top[0] = second;
    top[-1] = first;
    if (ring_take(&daemon->ring, journal_next_slot(queue)) > 0) {
        journal_taken(queue);
    } else {
        top[0] = first;
        top[-1] = second;
    }
    journal_taken(queue);
}

static bool daemon_take(struct world *world)
{
    struct daemon *daemon = &world->daemon;
    struct journal_queue *queue = &daemon->queue;
    bool waits = daemon->ring.req_cons != *shared32(&world->lasting, AT_REQ_PROD);
    uint8_t *slot;
    int result;

    if (is_mutant(MUTANT_ENTRY_IS_RING_INDEX)) {
        queue->free[0] = (uint16_t)(daemon->ring.req_cons & (queue->slots - 1));
        queue->free_count = 1;
        entry_at(&daemon->journal, queue->free[0])->word = 0;
    }
    slot = journal_next_slot(queue);
    if (!waits || !slot)
        return false;
    if (is_mutant(MUTANT_INFLIGHT_AFTER_NEXT_COPY) && queue->free_count > 1) {
        take_two(daemon);
        return true;
    }
    if (is_mutant(MUTANT_INFLIGHT_BEFORE_COPY))
        journal_taken(queue);
    result = ring_take(&daemon->ring, slot);
    if (result <= 0 && !world->lasting.guest.tampered)
        violation("an honest guest's ring is called broken");
    if (result > 0 && !is_mutant(MUTANT_INFLIGHT_BEFORE_COPY))
        journal_taken(queue);
    return result > 0;
}

/* The record of a write; none: false. */
static bool find_record(const struct journal *journal, uint64_t id, uint32_t *ret_number,
                        struct journal_record *ret_record)
{
    for (uint32_t i = 0; i < RECORDS; i++) {
        if (journal_record(journal, i, ret_record) &&
            ret_record->offset_bytes == sector_of(id) * LIMIT_SECTOR_BYTES) {
            *ret_number = i;
            return true;
        }
    }
    return false;
}

static void add_record(struct journal *journal, uint64_t id)
{
    struct journal_record record = {
        .kind = JOURNAL_WRITE,
        .offset_bytes = sector_of(id) * LIMIT_SECTOR_BYTES,
        .length_bytes = LIMIT_SECTOR_BYTES,
        .data_at_bytes = sector_of(id) * LIMIT_SECTOR_BYTES,
    };
    uint32_t number;

    if (journal_record_add(journal, &record, &number) < 0)
        violation("there are not enough records");
}

static bool is_answering(const struct journal_queue *queue, uint32_t number)
{
    for (uint32_t i = 0; i < queue->answering_count; i++) {
        if (queue->answering[i] == number)
            return true;
    }
    return false;
}

/* Gets a write's data, if that was not done by an earlier life, and sends it. */
static bool daemon_send(struct world *world, uint32_t number)
{
    struct daemon *daemon = &world->daemon;
    struct journal_record record;
    struct journal_entry entry;
    uint32_t found;
    uint64_t id;

    if (!model.config->records || !journal_entry(&daemon->journal, number, &entry) ||
        is_answering(&daemon->queue, number))
        return false;
    id = entry_id(&entry);
    if (find_record(&daemon->journal, id, &found, &record))
        return false;
    if (is_mutant(MUTANT_FLUSH_RETIRES_SENT) && entry.length_bytes > 0)
        return false;
    asked(&world->lasting.guest, id, "what nobody asked was sent");
    if (is_mutant(MUTANT_RECORD_BEFORE_LINK))
        add_record(&daemon->journal, id);
    if (entry.length_bytes == 0)
        journal_copied(&daemon->queue, number, sector_of(id) * LIMIT_SECTOR_BYTES,
                       LIMIT_SECTOR_BYTES);
    if (!is_mutant(MUTANT_RECORD_BEFORE_LINK))
        add_record(&daemon->journal, id);
    return true;
}

/* The server has answered: the write is DONE. False if nothing was sent. */
static bool complete_record(struct journal *journal, const struct journal_entry *entry)
{
    struct journal_record record;
    uint32_t number;

    if (entry->length_bytes == 0)
        return false;
    if (!find_record(journal, entry_id(entry), &number, &record))
        return is_mutant(MUTANT_FLUSH_RETIRES_SENT);
    if (record.state == JOURNAL_SENT && !is_mutant(MUTANT_DONE_AFTER_PUSH))
        journal_record_set(journal, number, JOURNAL_DONE);
    return true;
}

static bool daemon_answer(struct world *world, uint32_t number)
{
    struct daemon *daemon = &world->daemon;
    const struct guest *guest = &world->lasting.guest;
    struct journal_entry entry;
    uint64_t id;

    if (!journal_entry(&daemon->journal, number, &entry) || is_answering(&daemon->queue, number))
        return false;
    id = entry_id(&entry);
    if (!guest->tampered && guest->answered & 1U << asked(guest, id, "what nobody asked was done"))
        violation("what was answered was done again");
    if (model.config->records && !complete_record(&daemon->journal, &entry))
        return false;
    if (is_mutant(MUTANT_ANSWERING_SURVIVES))
        entry_at(&daemon->journal, number)->word = join(ENTRY_INFLIGHT, 0);
    if (is_mutant(MUTANT_ANSWERING_NOT_STORED))
        daemon->queue.answering[daemon->queue.answering_count++] = (uint16_t)number;
    else
        journal_answering(&daemon->queue, number, daemon->ring.rsp_prod);
    ring_put(&daemon->ring, id, entry.slot[0], BLKIF_OKAY);
    return true;
}

static void complete_records(struct journal *journal)
{
    struct journal_record record;

    for (uint32_t i = 0; i < RECORDS; i++) {
        if (journal_record(journal, i, &record) && record.state == JOURNAL_SENT)
            journal_record_set(journal, i, JOURNAL_DONE);
    }
}

static bool daemon_push(struct world *world)
{
    struct daemon *daemon = &world->daemon;

    if (daemon->ring.rsp_prod == daemon->ring.rsp_pushed)
        return false;
    journal_pushing(&daemon->queue, daemon->ring.rsp_prod);
    for (uint32_t i = 0; is_mutant(MUTANT_FREE_BEFORE_PUSH) && i < daemon->queue.answering_count;
         i++) {
        store64(&entry_at(&daemon->journal, daemon->queue.answering[i])->word, 0);
    }
    ring_push(&daemon->ring);
    journal_pushed(&daemon->queue);
    if (is_mutant(MUTANT_NONCE_AFTER_TAKE))
        ring_set_nonce(&daemon->ring, header_of(&daemon->journal)->queue[0].nonce);
    if (is_mutant(MUTANT_DONE_AFTER_PUSH))
        complete_records(&daemon->journal);
    return true;
}

/* A flush that was sent after the replies to all DONE, and has been answered. */
static bool daemon_flush(struct world *world)
{
    struct journal *journal = &world->daemon.journal;
    struct guest *guest = &world->lasting.guest;
    struct journal_record record;
    bool any = false;

    for (uint32_t i = 0; i < RECORDS; i++) {
        uint64_t sector;

        if (!journal_record(journal, i, &record) ||
            (record.state != JOURNAL_DONE && !is_mutant(MUTANT_FLUSH_RETIRES_SENT)))
            continue;
        any = true;
        sector = record.offset_bytes / LIMIT_SECTOR_BYTES;
        if (record.state == JOURNAL_DONE && sector / REQUESTS_MAX == guest->life)
            guest->durable |= 1U << sector % REQUESTS_MAX;
        journal_record_set(journal, i, JOURNAL_FREE);
    }
    return any;
}

/* ---- the daemon comes back ---- */

static bool has_request(const struct journal *journal, const struct journal_record *record)
{
    struct journal_entry entry;

    for (uint32_t i = 0; i < model.config->slots; i++) {
        if (journal_entry(journal, i, &entry) && entry.length_bytes == record->length_bytes &&
            entry.data_at_bytes == record->data_at_bytes)
            return true;
    }
    return false;
}

/* Invariants 9 and 11: each write that was sent is its request's to send again; or is of an older
 * life of the ring, whose requests are gone, and is given up. */
static void recover_records(struct world *world)
{
    struct journal *journal = &world->daemon.journal;
    struct journal_record record;

    for (uint32_t i = 0; i < RECORDS; i++) {
        if (!journal_record(journal, i, &record) || record.state != JOURNAL_SENT ||
            has_request(journal, &record))
            continue;
        if (record.offset_bytes / LIMIT_SECTOR_BYTES / REQUESTS_MAX == world->lasting.guest.life)
            violation("a write that may be at the server would be fetched again");
        journal_record_set(journal, i, JOURNAL_GHOST);
    }
}

/* Invariant 7. */
static void check_entries(const struct world *world, uint32_t taken)
{
    const struct journal *journal = &world->daemon.journal;
    uint32_t order[SLOTS_MAX + RECORDS], count = journal_entries_by_age(journal, order);
    struct journal_entry entry;
    uint64_t last = 0;

    if (count != taken)
        violation("there are other entries in use than requests taken");
    for (uint32_t i = 0; i < count; i++) {
        if (!journal_entry(journal, order[i], &entry) || entry_id(&entry) <= last)
            violation("entries are not in the order in which they were taken");
        last = entry_id(&entry);
    }
}

static void attach_ring(struct world *world, const struct ring_view *view, uint32_t taken)
{
    struct daemon *daemon = &world->daemon;

    if (ring_resume(&daemon->ring, world->lasting.shared, 1, BLKIF_ABI_X86_64, view, taken) < 0) {
        if (!world->lasting.guest.tampered)
            violation("an honest guest's ring is not taken up");
        daemon->held = true;
    }
    daemon->ring.slots = model.config->slots; /* smaller than a page's */
}

/* The ring is new: it has no nonce, so nothing was taken from it. */
static void connect_ring(struct world *world, struct ring_view *view)
{
    struct daemon *daemon = &world->daemon;
    struct journal_connection connection = {
        .queue_count = 1,
        .ring = {{.slots = model.config->slots, .page_count = 1, .refs = {8}}},
    };
    char reason[LIMIT_REASON_BYTES];
    uint32_t taken;

    connection.ring[0].nonce = ++world->lasting.nonces;
    if (journal_connect(&daemon->journal, &connection, &view->rsp_prod) < 0)
        violation("the file has no room for the ring");
    view->nonce = connection.ring[0].nonce;
    attach_ring(world, view, 0);
    if (daemon->held)
        return;
    if (!is_mutant(MUTANT_NONCE_AFTER_TAKE))
        ring_set_nonce(&daemon->ring, view->nonce);
    daemon->held = journal_recover(&daemon->journal, 0, view, &daemon->queue, &taken, reason) < 0;
    if (daemon->held ? !world->lasting.guest.tampered : taken != 0)
        violation("a new ring is not taken up");
    recover_records(world);
}

static void check_view(const struct world *world, const struct ring_view *view, uint32_t taken)
{
    const uint32_t *words = (const uint32_t *)(const void *)world->lasting.shared;
    uint32_t waiting = words[0] - words[2];

    if (view->rsp_prod != words[2] || waiting > model.config->slots || taken > waiting)
        violation("a ring whose indices the guest changed was taken up");
}

static void daemon_start(struct world *world)
{
    struct daemon *daemon = &world->daemon;
    uint8_t before[FILE_BYTES];
    uint64_t words[SLOTS_MAX];
    char reason[LIMIT_REASON_BYTES];
    struct ring_view view;
    uint32_t taken;
    int err;

    memset(daemon, 0, sizeof(*daemon));
    daemon->up = true;
    if (journal_open(&daemon->journal, world->lasting.file, model.layout.length_bytes,
                     daemon->scratch, reason) < 0)
        violation(reason);
    ring_view(world->lasting.shared, &view);
    if (header_of(&daemon->journal)->queue_count == 0) {
        connect_ring(world, &view);
        return;
    }
    if (is_mutant(MUTANT_NO_NONCE_CHECK))
        view.nonce = header_of(&daemon->journal)->queue[0].nonce;
    if (is_mutant(MUTANT_NO_INDEX_CHECK))
        view.rsp_prod = low_of(header_of(&daemon->journal)->queue[0].pushed);
    for (uint32_t i = 0; i < model.config->slots; i++)
        words[i] = entry_at(&daemon->journal, i)->word;
    memcpy(before, world->lasting.file, sizeof(before));
    err = journal_recover(&daemon->journal, 0, &view, &daemon->queue, &taken, reason);
    if (err < 0 && memcmp(before, world->lasting.file, sizeof(before)) != 0)
        violation("a recovery that failed has left its traces");
    if (err == -ESTALE && view.nonce == 0) {
        connect_ring(world, &view);
        return;
    }
    if (err < 0) {
        if (err != -EPROTO || !world->lasting.guest.tampered)
            violation(reason);
        daemon->held = true;
        return;
    }
    check_view(world, &view, taken);
    if (!world->lasting.guest.tampered) {
        check_entries(world, taken);
        recover_records(world);
    }
    for (uint32_t i = 0; is_mutant(MUTANT_ANSWERING_SURVIVES) && i < model.config->slots; i++) {
        if (entry_used(entry_at(&daemon->journal, i)))
            entry_at(&daemon->journal, i)->word = words[i];
    }
    attach_ring(world, &view, taken);
}

/* ---- the search ---- */

static uint32_t answers_seen(struct lasting *lasting)
{
    uint32_t answers = lasting->guest.answered;

    for (uint32_t i = lasting->guest.rsp_cons; i != *shared32(lasting, AT_RSP_PROD); i++) {
        uint64_t id;

        memcpy(&id, guest_slot(lasting, i), sizeof(id));
        answers |= 1U << id % 16;
    }
    return answers;
}

/* Law 5: what was answered is durable, or kept. */
static void check_kept(struct world *world)
{
    const struct guest *guest = &world->lasting.guest;
    struct journal journal = {.memory = world->lasting.file, .layout = model.layout};
    uint32_t kept = guest->durable;
    struct journal_record record;

    if (!model.config->records)
        return;
    for (uint32_t i = 0; i < RECORDS; i++) {
        uint64_t sector;

        if (!journal_record(&journal, i, &record) || record.state != JOURNAL_DONE)
            continue;
        sector = record.offset_bytes / LIMIT_SECTOR_BYTES;
        if (sector / REQUESTS_MAX == guest->life)
            kept |= 1U << sector % REQUESTS_MAX;
    }
    if (answers_seen(&world->lasting) & ~kept)
        violation("an answered write is lost with the server's cache");
}

static void explore(void);

static void explore_next(void)
{
    model.depth++;
    explore();
    model.depth--;
}

/* The daemon in worlds[depth] has just stored something: what if it is killed now? */
static void stored(void)
{
    struct world *killed;

    if (model.watch)
        model.watch();
    if (!model.daemon_acts || model.worlds[model.depth].lasting.crashes_left == 0)
        return;
    model.daemon_acts = false;
    model.kills++;
    killed = branch("kill");
    memset(&killed->daemon, 0, sizeof(killed->daemon));
    killed->lasting.crashes_left--;
    check_kept(killed);
    explore_next();
    model.daemon_acts = true;
}

static uint64_t mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * 0x9e3779b97f4a7c15;
    return hash ^ hash >> 29;
}

static uint64_t mix_bytes(uint64_t hash, const uint8_t *bytes, size_t count)
{
    uint64_t word;

    for (size_t at = 0; at < count; at += sizeof(word)) {
        memcpy(&word, bytes + at, sizeof(word));
        hash = mix(hash, word);
    }
    return hash;
}

static uint64_t mix_guest(uint64_t hash, struct lasting *lasting)
{
    const struct guest *guest = &lasting->guest;
    const struct file_header *header = (const struct file_header *)(void *)lasting->file;
    uint64_t nonce;

    memcpy(&nonce, lasting->shared + AT_NONCE, sizeof(nonce));
    hash = mix(hash, nonce == 0 ? 0 : nonce == header->queue[0].nonce ? 1 : 2);
    hash = mix(hash, join(guest->req_prod, guest->rsp_cons));
    hash = mix(hash, join(guest->life << 16 | (guest->tampered ? 256U : 0U) | lasting->crashes_left,
                          guest->submitted));
    hash = mix(hash, join(guest->answered, guest->durable));
    hash = mix(hash, join(*shared32(lasting, AT_REQ_PROD), *shared32(lasting, AT_RSP_PROD)));
    for (uint32_t i = 0; i < model.config->slots; i++)
        hash = mix_bytes(hash, guest_slot(lasting, i), 24);
    return hash;
}

static uint64_t mix_file(uint64_t hash, struct lasting *lasting)
{
    struct journal journal = {.memory = lasting->file, .layout = model.layout};
    const struct file_header *header = header_of(&journal);

    hash = mix(hash, header->queue_count);
    hash = mix(hash, header->queue[0].pushed);
    for (uint32_t i = 0; i < model.config->slots; i++) {
        const struct file_entry *entry = entry_at(&journal, i);
        uint32_t older = 0;

        for (uint32_t other = 0; entry_used(entry) && other < model.config->slots; other++) {
            older += entry_used(entry_at(&journal, other)) &&
                     entry_at(&journal, other)->sequence < entry->sequence;
        }
        hash = mix(mix(mix(hash, entry->word), entry->extent), older);
        hash = mix_bytes(hash, entry->slot, 24);
    }
    for (uint32_t i = 0; model.config->records && i < RECORDS; i++) {
        hash = mix(hash, record_at(&journal, i)->word);
        if (record_at(&journal, i)->word != 0)
            hash = mix(hash, record_at(&journal, i)->offset_bytes);
    }
    return hash;
}

static uint64_t mix_daemon(uint64_t hash, const struct daemon *daemon)
{
    const struct journal_queue *queue = &daemon->queue;

    hash = mix(hash, (uint64_t)daemon->up << 2 | (uint64_t)daemon->held << 1 | daemon->ring.broken);
    if (!daemon->up || daemon->held)
        return hash;
    hash = mix(hash, join(daemon->ring.req_cons, daemon->ring.rsp_prod));
    hash = mix(hash, join(daemon->ring.rsp_pushed, queue->free_count));
    for (uint32_t i = 0; i < queue->free_count; i++)
        hash = mix(hash, queue->free[i]);
    for (uint32_t i = 0; i < queue->answering_count; i++)
        hash = mix(hash, queue->answering[i]);
    return hash;
}

static bool insert_hash(uint64_t *table, size_t size, uint64_t hash)
{
    size_t at = hash & (size - 1);

    while (table[at] != 0 && table[at] != hash)
        at = (at + 1) & (size - 1);
    if (table[at] == hash)
        return false;
    table[at] = hash;
    return true;
}

/* False if this state has been here before. */
static bool is_new(struct world *world)
{
    uint64_t hash = mix_guest(1, &world->lasting);

    hash = mix_daemon(mix_file(hash, &world->lasting), &world->daemon) | 1;
    if (2 * model.seen_count >= model.seen_size) {
        size_t size = 2 * model.seen_size;
        uint64_t *table = calloc(size, sizeof(*table));

        assert_non_null(table);
        for (size_t i = 0; i < model.seen_size; i++) {
            if (model.seen[i] != 0)
                insert_hash(table, size, model.seen[i]);
        }
        free(model.seen);
        model.seen = table;
        model.seen_size = size;
    }
    if (!insert_hash(model.seen, model.seen_size, hash))
        return false;
    model.seen_count++;
    return true;
}

static bool explore_guest(bool down)
{
    bool any = false;

    if (guest_submit(&branch("submit")->lasting)) {
        any = true;
        explore_next();
    }
    if (guest_collect(&branch("collect")->lasting)) {
        any = true;
        explore_next();
    }
    if (down && guest_initialise(&branch("initialise")->lasting)) {
        any = true;
        explore_next();
    }
    for (uint32_t how = 0; how < TAMPERINGS; how++) {
        if (guest_tamper(&branch("tamper")->lasting, how))
            explore_next();
    }
    return any;
}

/* One step of the daemon's, in a world of its own: killed at each of its stores, then not. */
static bool explore_step(const char *name, bool (*step)(struct world *, uint32_t), uint32_t number)
{
    struct world *next = branch(name);
    bool acted;

    model.depth++;
    model.daemon_acts = true;
    acted = step(next, number);
    model.daemon_acts = false;
    if (acted)
        explore();
    model.depth--;
    return acted;
}

static bool step_start(struct world *world, uint32_t number)
{
    (void)number;
    daemon_start(world);
    return true;
}

static bool step_take(struct world *world, uint32_t number)
{
    (void)number;
    return daemon_take(world);
}

static bool step_push(struct world *world, uint32_t number)
{
    (void)number;
    return daemon_push(world);
}

static bool step_flush(struct world *world, uint32_t number)
{
    (void)number;
    return daemon_flush(world);
}

static bool explore_daemon(const struct daemon *daemon)
{
    static const char *const sends[SLOTS_MAX] = {"send 0", "send 1", "send 2", "send 3"};
    static const char *const answers[SLOTS_MAX] = {"answer 0", "answer 1", "answer 2", "answer 3"};
    bool any = false;

    if (!daemon->up)
        return explore_step("start", step_start, 0);
    if (daemon->held)
        return false;
    any |= explore_step("take", step_take, 0);
    for (uint32_t i = 0; i < model.config->slots; i++) {
        any |= explore_step(sends[i], daemon_send, i);
        any |= explore_step(answers[i], daemon_answer, i);
    }
    any |= explore_step("push", step_push, 0);
    if (model.config->records)
        any |= explore_step("flush", step_flush, 0);
    return any;
}

/* Law 2: on every path everything is answered in the end. */
static void explore(void)
{
    struct world *world = &model.worlds[model.depth];
    const struct guest *guest = &world->lasting.guest;
    bool any;

    if (!is_new(world))
        return;
    any = explore_guest(!world->daemon.up);
    any |= explore_daemon(&world->daemon);
    if (!any && !guest->tampered && guest->answered != (1U << requests_of(guest->life)) - 1)
        violation("a request is lost");
}

static void begin(const struct config *config, enum mutant mutant)
{
    struct journal_identity identity = {.device_nonce = 1, .export_bytes = 1 << 20};
    struct journal_geometry geometry = {
        .entry_count = config->slots,
        .record_count = RECORDS,
        .data_bytes = DATA_BYTES,
    };
    struct lasting *lasting = &model.worlds[0].lasting;

    assert_int_equal(journal_layout(&geometry, &model.layout), 0);
    assert_true(model.layout.data_offset <= FILE_BYTES);
    model.config = config;
    model.mutant = mutant;
    model.depth = 0;
    model.daemon_acts = false;
    model.kills = 0;
    model.seen_count = 0;
    model.seen_size = 1 << 16;
    model.seen = calloc(model.seen_size, sizeof(*model.seen));
    assert_non_null(model.seen);
    memset(&model.worlds[0], 0, sizeof(model.worlds[0]));
    journal_format(lasting->file, &model.layout, &identity);
    lasting->crashes_left = config->crashes;
    lasting->guest.req_prod = lasting->guest.rsp_cons = config->start;
    *shared32(lasting, AT_REQ_PROD) = *shared32(lasting, AT_RSP_PROD) = config->start;
}

/* True if all is well; else model.violation and model.steps tell what is not. */
static bool search(const struct config *config, enum mutant mutant)
{
    bool well;

    begin(config, mutant);
    model.searching = true;
    if (setjmp(model.violated) == 0) {
        explore();
        well = true;
    } else {
        model.daemon_acts = false;
        well = false;
    }
    model.searching = false;
    free(model.seen);
    return well;
}

static void print_steps(void)
{
    for (uint32_t i = 0; i < model.depth; i++)
        print_error("%s%s", i == 0 ? "" : ", ", model.steps[i]);
    print_error(": %s\n", model.violation);
}

/* ---- what is searched ---- */

static const struct config configs[] = {
    {"ring 2, 5 requests, 3 kills", .slots = 2, .requests = 5, .crashes = 3},
    {"the same, over the indices' wrap", .slots = 2, .requests = 5, .crashes = 3,
     .start = UINT32_MAX - 1},
    {"ring 2, initialised anew by a guest", .slots = 2, .requests = 4, .crashes = 2, .again = 3},
    {"ring 2, indices changed by a guest", .slots = 2, .requests = 4, .crashes = 2,
     .tampers = true},
    {"ring 2, 3 writes and flushes, 2 kills", .slots = 2, .requests = 3, .crashes = 2,
     .records = true},
    {"ring 4, 5 requests, 2 kills", .slots = 4, .requests = 5, .crashes = 2},
    {"ring 4, 6 requests, 2 kills", .slots = 4, .requests = 6, .crashes = 2, .is_long = true},
    {"ring 4, 5 requests, 3 kills", .slots = 4, .requests = 5, .crashes = 3, .is_long = true},
    {"ring 4, initialised anew by a guest", .slots = 4, .requests = 5, .crashes = 2, .again = 5,
     .is_long = true},
    {"ring 4, indices changed by a guest", .slots = 4, .requests = 3, .crashes = 1, .tampers = true,
     .is_long = true},
    {"ring 2, 3 writes and flushes, 2 kills, initialised anew", .slots = 2, .requests = 3,
     .crashes = 2, .again = 2, .records = true},
    {"ring 4, 4 writes and flushes, 1 kill", .slots = 4, .requests = 4, .crashes = 1,
     .records = true, .is_long = true},
};

static void test_no_kill_loses_or_repeats_a_request(void **state)
{
    bool is_long = getenv("BLKGATE_LONG") != NULL;
    size_t all = 0;

    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(configs); i++) {
        if (configs[i].is_long && !is_long)
            continue;
        if (!search(&configs[i], MUTANT_NONE)) {
            print_steps();
            fail_msg("%s: %s", configs[i].name, model.violation);
        }
        print_message("%s: %zu states, %" PRIu64 " kills\n", configs[i].name, model.seen_count,
                      model.kills);
        all += model.seen_count;
    }
    print_message("%zu states in all\n", all);
}

/* ---- killed while it makes the file, or describes new rings in it ---- */

static struct {
    struct journal_layout layout;
    _Alignas(8) uint8_t file[FILE_BYTES];
    uint32_t stores, complete; /* how many there were; at which it was complete */
} made;

static void watch_format(void)
{
    char reason[LIMIT_REASON_BYTES];
    struct journal_layout layout;
    int err = journal_peek(made.file, made.layout.length_bytes, &layout, reason);

    made.stores++;
    if (err == 0 && made.complete == 0)
        made.complete = made.stores;
    else
        assert_int_equal(err, -ENODATA);
}

static void test_a_file_is_none_before_it_is_whole(void **state)
{
    struct journal_identity identity = {.device_nonce = 1, .export_bytes = 1 << 20};
    struct journal_geometry geometry = {8, 3, 0};

    (void)state;
    memset(&made, 0, sizeof(made));
    assert_int_equal(journal_layout(&geometry, &made.layout), 0);
    model.watch = watch_format;
    journal_format(made.file, &made.layout, &identity);
    model.watch = NULL;
    assert_true(made.stores > 10);
    assert_int_equal(made.complete, made.stores);
}

static void connection_make(struct journal_connection *connection, uint32_t queues, uint32_t slots)
{
    memset(connection, 0, sizeof(*connection));
    connection->abi = queues == 1 ? BLKIF_ABI_X86_64 : BLKIF_ABI_X86_32;
    connection->queue_count = queues;
    for (uint32_t i = 0; i < queues; i++) {
        connection->ring[i].nonce = 10 * queues + i;
        connection->ring[i].slots = slots;
        connection->ring[i].event_channel = 10 + i;
        connection->ring[i].page_count = LIMIT_RING_PAGES;
        for (uint32_t page = 0; page < LIMIT_RING_PAGES; page++)
            connection->ring[i].refs[page] = 100 * queues + 20 * i + page;
    }
}

/* From the first store on there are no rings, and with the last one they are the new ones. */
static void watch_connect(void)
{
    struct journal_connection connection, expected;
    uint32_t scratch[SLOTS_MAX * SLOTS_MAX];
    char reason[LIMIT_REASON_BYTES];
    struct journal journal;

    made.stores++;
    assert_int_equal(journal_open(&journal, made.file, made.layout.length_bytes, scratch, reason),
                     0);
    journal_connection(&journal, &connection);
    if (connection.queue_count == 0)
        return;
    if (made.complete == 0)
        made.complete = made.stores;
    connection_make(&expected, 1, 8);
    assert_memory_equal(&connection, &expected, sizeof(expected));
    assert_int_equal(journal_entries_by_age(&journal, scratch), 0);
}

static void test_rings_are_none_before_they_are_whole(void **state)
{
    uint32_t scratch[SLOTS_MAX * SLOTS_MAX], rsp_prod[2] = {5, 6}, taken;
    struct ring_view view = {.nonce = 20, .rsp_prod = 5, .req_prod = 5};
    struct journal_connection connection;
    char reason[LIMIT_REASON_BYTES];
    struct journal_queue queue;
    struct journal journal;

    (void)state;
    test_a_file_is_none_before_it_is_whole(state);
    assert_int_equal(journal_open(&journal, made.file, made.layout.length_bytes, scratch, reason),
                     0);
    connection_make(&connection, 2, 4);
    assert_int_equal(journal_connect(&journal, &connection, rsp_prod), 0);
    assert_int_equal(journal_recover(&journal, 0, &view, &queue, &taken, reason), 0);
    for (uint32_t i = 0; i < 4; i++) {
        memset(journal_next_slot(&queue), 0, LIMIT_SLOT_BYTES);
        journal_answering(&queue, journal_taken(&queue), 5 + i);
    }
    made.stores = made.complete = 0;
    connection_make(&connection, 1, 8);
    model.watch = watch_connect;
    assert_int_equal(journal_connect(&journal, &connection, rsp_prod), 0);
    model.watch = NULL;
    assert_true(made.stores > 20);
    assert_int_equal(made.complete, made.stores);
}

static void test_each_mutant_is_found(void **state)
{
    static const char *const mutants[] = {
        [MUTANT_ENTRY_IS_RING_INDEX] = "an entry's number is its ring index",
        [MUTANT_ANSWERING_SURVIVES] = "ANSWERING survives recovery",
        [MUTANT_FREE_BEFORE_PUSH] = "FREE before the push",
        [MUTANT_INFLIGHT_BEFORE_COPY] = "INFLIGHT before the copy",
        [MUTANT_INFLIGHT_AFTER_NEXT_COPY] = "INFLIGHT after the next one was taken",
        [MUTANT_ANSWERING_NOT_STORED] = "ANSWERING is not stored",
        [MUTANT_NO_NONCE_CHECK] = "the nonce is not compared",
        [MUTANT_NONCE_AFTER_TAKE] = "the nonce is written after requests were taken",
        [MUTANT_NO_INDEX_CHECK] = "rsp_prod is not compared",
        [MUTANT_DONE_AFTER_PUSH] = "DONE after the push",
        [MUTANT_RECORD_BEFORE_LINK] = "a record before its request's link to the data",
        [MUTANT_FLUSH_RETIRES_SENT] = "a flush retires what was sent, not what was answered",
    };

    (void)state;
    for (size_t i = 1; i < ARRAY_LENGTH(mutants); i++) {
        size_t c = 0;

        while (c < ARRAY_LENGTH(configs) &&
               (configs[c].is_long || search(&configs[c], (enum mutant)i)))
            c++;
        if (c == ARRAY_LENGTH(configs))
            fail_msg("%s, and all is well?", mutants[i]);
        print_message("%s: %s (%s, %u steps)\n", mutants[i], model.violation, configs[c].name,
                      model.depth);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_kill_loses_or_repeats_a_request),
        cmocka_unit_test(test_a_file_is_none_before_it_is_whole),
        cmocka_unit_test(test_rings_are_none_before_they_are_whole),
        cmocka_unit_test(test_each_mutant_is_found),
    };
    int failed;

    model.worlds = calloc(DEPTH_MAX, sizeof(*model.worlds));
    failed = cmocka_run_group_tests_name("journal_model", tests, NULL, NULL);
    free(model.worlds);
    return failed;
}
