/*
 * disk_command: a disk's commands (command.h): which requests make one, its memory, its sending,
 * and what becomes of its requests when it completes.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "gateway/config.h"
#include "gateway/disk_private.h"
#include "gateway/faults.h"
#include "gateway/grants.h"
#include "gateway/queue.h"

static struct request *request_of(struct plan_item *item)
{
    return container_of(item, struct request, plan);
}

static struct request *first_member(const struct command *command)
{
    return container_of(command->members.next, struct request, work);
}

static const char *op_name(const struct command *command)
{
    switch (command->op) {
    case BLKIF_READ: return "read";
    case BLKIF_DISCARD: return "discard";
    default: return "write";
    }
}

/* -- the pool -------------------------------------------------------------------------------- */

/* And the two extremes, for tests. */
static struct merge merge_limits(void)
{
    if (fault_is("merge-nothing"))
        return (struct merge){0, 0, LIMIT_COMMANDS_IN_FLIGHT};
    if (fault_is("merge-all"))
        return (struct merge){LIMIT_RESERVE_BYTES - 2 * LIMIT_PAGE_BYTES, UINT32_MAX, 1};
    return (struct merge){LIMIT_MERGE_BYTES, LIMIT_MERGE_ENOUGH_BYTES, LIMIT_PIPELINE_COMMANDS};
}

void disk_commands_reset(struct disk *disk)
{
    disk->merge = merge_limits();
    disk->free_commands = NULL;
    disk->commands_used = disk->came_back = 0;
}

bool disk_has_command(const struct disk *disk)
{
    return disk->free_commands || disk->commands_used < disk->command_count;
}

/* One that was used lately; the others cost no memory. */
static struct command *command_new(struct disk *disk)
{
    struct command *command = disk->free_commands;

    if (command)
        disk->free_commands = command->next_free;
    else
        command = &disk->commands[disk->commands_used++];
    assert(disk->commands_used <= disk->command_count);
    *command = (struct command){.op = BLKIF_READ};
    list_init(&command->members);
    return command;
}

static void command_free(struct disk *disk, struct command *command)
{
    command->next_free = disk->free_commands;
    disk->free_commands = command;
    disk_put_memory(disk, command->buffer, command->buffer_bytes, disk->reserve + LIMIT_PAGE_BYTES);
}

void disk_command_answered(struct disk *disk, struct request *request)
{
    struct command *command = request->command;

    request->command = NULL;
    if (command && --command->unanswered == 0)
        command_free(disk, command);
}

bool disk_is_quiet(const struct disk *disk)
{
    return disk->commands_out == 0 && disk->replay_out == 0;
}

/* -- which requests make one ----------------------------------------------------------------- */

/* May they be one command? What has its bytes in the kept file already lies where it lies. */
static bool joins(const struct plan_item *item, const struct plan_item *other)
{
    const struct request *a = container_of(item, const struct request, plan);
    const struct request *b = container_of(other, const struct request, plan);

    return a->blkif.op == b->blkif.op && !b->alone && !b->copied &&
           (b->state == REQUEST_READY || b->state == REQUEST_WAITING);
}

static bool may_merge(const struct request *request)
{
    return (request->blkif.op == BLKIF_READ || request->blkif.op == BLKIF_WRITE) &&
           !request->alone && !request->copied;
}

static void gather_alone(struct request *request, struct plan_run *ret_run)
{
    request->plan.next = NULL;
    *ret_run = (struct plan_run){
        .first = &request->plan, .count = 1, .sector_count = request->plan.range.sector_count};
}

/* Once sent together, together for ever: their bytes are one record's, in one piece. */
static void gather_record(struct request *request, struct plan_run *ret_run)
{
    struct plan_item **link = &ret_run->first;

    *ret_run = (struct plan_run){.count = 0};
    list_each (node, &request->kept->requests) {
        struct request *member = container_of(node, struct request, kept_link);

        *link = &member->plan;
        link = &member->plan.next;
        ret_run->count++;
        ret_run->sector_count += member->plan.range.sector_count;
    }
    *link = NULL;
}

static void gather_neighbours(struct disk *disk, struct request *request, struct plan_run *ret_run)
{
    uint32_t max_bytes = target_command_max_bytes(disk->target, false);

    if (max_bytes > disk->merge.max_bytes)
        max_bytes = disk->merge.max_bytes;
    plan_gather(&disk->plan, &request->plan, max_bytes / LIMIT_SECTOR_BYTES, joins, ret_run);
    /* The request itself is not; its neighbours nobody has asked yet. */
    if (ret_run->count > 1 && request->plan.range.writes &&
        keep_ghost_overlaps(disk->keep, ret_run->first->range.sector * LIMIT_SECTOR_BYTES,
                            ret_run->sector_count * LIMIT_SECTOR_BYTES, false, NULL, 0))
        gather_alone(request, ret_run);
}

void disk_gather(struct disk *disk, struct request *request, struct plan_run *ret_run)
{
    if (request->kept)
        gather_record(request, ret_run);
    else if (may_merge(request))
        gather_neighbours(disk, request, ret_run);
    else
        gather_alone(request, ret_run);
}

/* -- begin ----------------------------------------------------------------------------------- */

/* Memory in which the first segment lies as in its frame: whole aligned pages then need one copy
 * operation each. False: there is none now. */
static bool give_memory(struct disk *disk, struct command *command, const struct plan_run *run)
{
    const struct request *first = request_of(run->first);
    uint32_t into_page;

    if (command->op == BLKIF_DISCARD)
        return true;
    if (first->copied) {
        command->data = first->data;
        return true;
    }
    into_page = first->segs[0].first_sect * (uint32_t)LIMIT_SECTOR_BYTES;
    command->buffer_bytes = into_page + command->length_bytes;
    if (command->op == BLKIF_READ) {
        bool oldest = false;

        for (struct plan_item *item = run->first; item; item = item->next)
            oldest |= disk->requests.next == &request_of(item)->age;
        command->buffer =
            disk_get_memory(disk, oldest, command->buffer_bytes, disk->reserve + LIMIT_PAGE_BYTES);
    } else {
        command->buffer = keep_alloc(disk->keep, command->buffer_bytes);
    }
    if (!command->buffer)
        return false;
    command->data = (uint8_t *)command->buffer + into_page;
    return true;
}

/* Each member holds its own part of a write's memory from now on, and it is the command's no more.
 */
static void divide_memory(struct disk *disk, struct command *command)
{
    list_each (node, &command->members) {
        const struct request *member = container_of(node, const struct request, work);

        keep_hold(disk->keep, member->data, member->length_bytes);
    }
    keep_drop(disk->keep, command->buffer, command->buffer_bytes);
    command->buffer = NULL;
}

static void enlist(struct command *command, const struct plan_run *run, enum request_state state)
{
    uint8_t *data = command->data;

    for (struct plan_item *item = run->first; item; item = item->next) {
        struct request *member = request_of(item);

        list_remove(&member->work);
        list_append(&command->members, &member->work);
        member->state = state;
        member->command = command;
        member->data = data;
        if (data)
            data += member->length_bytes;
        command->unanswered++;
    }
}

static bool send(struct disk *disk, struct command *command);

static bool begin(struct disk *disk, const struct plan_run *run)
{
    const struct request *first = request_of(run->first);
    struct command *command = command_new(disk);
    bool copy = request_writes_data(first) && !first->copied;
    uint32_t before = disk->came_back;

    command->op = request_writes_data(first) ? BLKIF_WRITE : (enum blkif_op)first->blkif.op;
    command->offset_bytes = first->plan.range.sector * LIMIT_SECTOR_BYTES;
    command->length_bytes = run->sector_count * LIMIT_SECTOR_BYTES;
    command->done_bytes = first->done_bytes;
    command->kept = first->kept;
    if (!give_memory(disk, command, run)) {
        command_free(disk, command);
        return false;
    }
    enlist(command, run, copy ? REQUEST_COPYING_OUT : REQUEST_SENT);
    disk->commands_out++;
    disk->came_back -= disk->came_back > 0;
    if (!copy && !send(disk, command)) {
        disk->came_back = before; /* it was not away */
        return false;
    }
    if (command->op != BLKIF_DISCARD) {
        disk->started_bytes += (uint32_t)command->length_bytes;
        disk->home->started_bytes += command->length_bytes;
    }
    if (!copy)
        return true;
    divide_memory(disk, command);
    list_each (node, &command->members)
        disk_copy(disk, container_of(node, struct request, work), GRANTS_FROM_GUEST);
    list_append(&disk->collected, &command->collected);
    disk->collected_count++;
    return true;
}

bool disk_command_start(struct disk *disk, struct request *request, const struct plan_run *run)
{
    struct plan_run alone;

    if (begin(disk, run))
        return true;
    if (run->count == 1 || request->kept)
        return false;
    gather_alone(request, &alone); /* there may be memory for as much */
    return begin(disk, &alone);
}

/* -- the end of a command that did not do it ------------------------------------------------- */

/* The server has answered what was sent of it, one way or the other. */
static void returned(struct disk *disk, struct command *command)
{
    if (command->kept && command->kept->out > 0)
        kept_returned(disk->keep, command->kept);
}

static void came_back(struct disk *disk)
{
    disk->commands_out--;
    disk->came_back = list_empty(&disk->waiting) ? 0 : disk->came_back + 1;
}

/* Its requests wait to be sent again, before all others. What was done of a write is of no worth:
 * the server may have lost it with its cache, and it is not among what is replayed. */
static void dissolve(struct disk *disk, struct command *command)
{
    const struct kept *kept = command->kept;
    struct list *first = command->op == BLKIF_WRITE ? &disk->again : &disk->ready;

    came_back(disk);
    list_each (node, &command->members) {
        struct request *member = container_of(node, struct request, work);

        member->state = REQUEST_READY;
        member->command = NULL;
        if (command->op == BLKIF_READ)
            member->data = NULL;
        if (command->op == BLKIF_DISCARD)
            member->done_bytes =
                kept ? kept->offset_bytes - command->offset_bytes : command->done_bytes;
    }
    list_splice(&command->members, first);
    list_splice(first, &command->members);
    command_free(disk, command);
}

/* One of them is bad: each for itself, from now on. */
static void split(struct disk *disk, struct command *command)
{
    if (command->kept)
        kept_refused(disk->keep, command->kept);
    list_each (node, &command->members) {
        struct request *member = container_of(node, struct request, work);

        member->alone = true;
        if (!member->kept)
            continue;
        list_remove(&member->kept_link);
        member->twin = member->kept->id;
        kept_release(disk->keep, member->kept, (uint32_t)member->length_bytes);
        member->kept = NULL;
    }
    dissolve(disk, command);
    disk_activate(disk);
}

static void reply_to_all(struct disk *disk, struct command *command, int error,
                         enum blkif_status status)
{
    struct list *node;

    came_back(disk);
    while ((node = list_pop(&command->members))) {
        struct request *member = container_of(node, struct request, work);

        if (status != BLKIF_OKAY)
            member->status = status;
        disk_request_replied(disk, member, error);
    }
}

/* -- send ------------------------------------------------------------------------------------ */

/* The record that a write has as a whole, a discard for what may be one chunk. False: there is none
 * now. */
static bool have_record(struct disk *disk, struct command *command, uint32_t chunk_bytes)
{
    bool trim = command->op == BLKIF_DISCARD;

    if (command->kept)
        return true;
    if (trim)
        command->kept = kept_add(disk->keep, JOURNAL_TRIM, false,
                                 command->offset_bytes + command->done_bytes, chunk_bytes, NULL);
    else
        command->kept =
            kept_add(disk->keep, JOURNAL_WRITE, disk->flush_kind == TARGET_FLUSH_NEEDLESS,
                     command->offset_bytes, (uint32_t)command->length_bytes, command->data);
    if (!command->kept)
        return false;
    list_each (node, &command->members) {
        struct request *member = container_of(node, struct request, work);

        member->kept = command->kept;
        list_append(&command->kept->requests, &member->kept_link);
    }
    return true;
}

static int send_chunk(struct disk *disk, struct command *command)
{
    uint64_t at_bytes = command->offset_bytes + command->done_bytes;

    switch (command->op) {
    case BLKIF_DISCARD:
        return target_trim(disk->target, &command->cmd, command->chunk_bytes, at_bytes);
    case BLKIF_READ:
        return target_read(disk->target, &command->cmd, command->data + command->done_bytes,
                           command->chunk_bytes, at_bytes);
    default:
        return target_write(disk->target, &command->cmd, command->data + command->done_bytes,
                            command->chunk_bytes, at_bytes);
    }
}

/* Of a discard, behind what is done. */
static uint32_t record_left(const struct command *command)
{
    uint64_t end_bytes = command->kept->offset_bytes + command->kept->length_bytes;

    return (uint32_t)(end_bytes - command->offset_bytes - command->done_bytes);
}

static uint32_t next_chunk(const struct disk *disk, const struct command *command)
{
    uint64_t left_bytes = command->length_bytes - command->done_bytes;
    uint32_t chunk_bytes = target_command_max_bytes(disk->target, command->op == BLKIF_DISCARD);

    if (command->chunk_max_bytes && chunk_bytes > command->chunk_max_bytes)
        chunk_bytes = command->chunk_max_bytes;
    if (chunk_bytes > left_bytes)
        chunk_bytes = (uint32_t)left_bytes;
    if (command->op == BLKIF_DISCARD && command->kept && chunk_bytes > record_left(command))
        chunk_bytes = record_left(command);
    return chunk_bytes;
}

/* Sends the next chunk. False: not before a flush has given back some records. */
static bool send(struct disk *disk, struct command *command)
{
    uint32_t chunk_bytes = next_chunk(disk, command);
    int err;

    if (command->op != BLKIF_READ && !have_record(disk, command, chunk_bytes)) {
        dissolve(disk, command);
        disk_flush_by_itself(disk);
        return false;
    }
    command->chunk_bytes = chunk_bytes;
    if (command->kept && command->kept->out == 0)
        kept_sent(disk->keep, command->kept);
    err = send_chunk(disk, command);
    if (err == 0)
        return true;
    returned(disk, command);
    if (err == -ENOTCONN || err == -ENOMEM) {
        dissolve(disk, command);
        if (err == -ENOMEM) /* ours; of the other the loss will be told */
            target_give_up_session(disk->target, "out of memory");
        return false;
    }
    log_limited(&disk->log_server, LOG_LEVEL_WARNING, disk->name,
                "a command could not be sent: %s; its requests are answered ERROR", strerror(-err));
    reply_to_all(disk, command, err, BLKIF_OKAY);
    return true;
}

/* Bytes of a bad grant are not there to be sent: its request is answered, the others are not. */
static void split_bad_copies(struct disk *disk, struct command *command)
{
    list_each_safe (node, &command->members) {
        struct request *member = container_of(node, struct request, work);

        if (member->error == 0)
            continue;
        list_remove(&member->work);
        member->command = NULL;
        disk_request_replied(disk, member, member->error);
    }
    split(disk, command);
}

void disk_commands_send(struct disk *disk)
{
    struct list *node;

    while ((node = list_pop(&disk->collected))) {
        struct command *command = container_of(node, struct command, collected);
        bool bad = false;

        disk->collected_count--;
        list_each (member_node, &command->members) {
            struct request *member = container_of(member_node, struct request, work);

            bad |= member->error != 0;
            if (member->error != 0)
                continue;
            queue_copied(member->queue, member, keep_data_at(disk->keep, member->data));
            disk_drop_descriptors(disk, member); /* it may be long before it is answered */
            member->copied = true;
            member->state = REQUEST_SENT;
        }
        if (bad)
            split_bad_copies(disk, command);
        else
            send(disk, command);
    }
}

/* -- completions ----------------------------------------------------------------------------- */

/* What the protocol lets a server say of a command that is too long for it. */
bool disk_may_be_too_long(uint32_t chunk_bytes, int error)
{
    return (error == -EINVAL || error == -ENOMEM || error == -EOVERFLOW) &&
           chunk_bytes > LIMIT_COMMAND_FLOOR_BYTES;
}

/* Half of what failed: whole pages, and one at least. */
uint32_t disk_shorter(uint32_t chunk_bytes)
{
    uint32_t pages = chunk_bytes / 2 / LIMIT_COMMAND_FLOOR_BYTES;

    return (pages ? pages : 1) * LIMIT_COMMAND_FLOOR_BYTES;
}

/* The errors of `on-error = retry`: of storage that is full, or being repaired. */
static bool may_pass(int error)
{
    return error == -ENOSPC || error == -EIO || error == -ENOMEM || error == -ETIMEDOUT;
}

/* A request that was alone failed for good. */
static void refuse(struct disk *disk, struct command *command, int error)
{
    uint64_t at_bytes = command->offset_bytes + command->done_bytes;
    enum blkif_status status = BLKIF_OKAY;

    if (command->op == BLKIF_DISCARD && error == -ENOTSUP)
        status = BLKIF_EOPNOTSUPP; /* Linux then sends no more */
    log_limited(&disk->log_server, LOG_LEVEL_WARNING, disk->name,
                "the server failed a %s of %u bytes at sector %llu: %s; answered %s",
                op_name(command), command->chunk_bytes,
                (unsigned long long)at_bytes / LIMIT_SECTOR_BYTES, strerror(-error),
                status == BLKIF_OKAY ? "ERROR" : "EOPNOTSUPP");
    reply_to_all(disk, command, error, status);
}

static void failed(struct disk *disk, struct command *command, int error)
{
    struct request *first = first_member(command);

    if (error == -ENOTCONN) { /* still out: a ghost, when the loss is told */
        dissolve(disk, command);
        return;
    }
    returned(disk, command);
    if (error == -ESHUTDOWN) { /* the server is leaving: as good as gone */
        dissolve(disk, command);
        target_give_up_session(disk->target, "it is shutting down");
    } else if (disk_may_be_too_long(command->chunk_bytes, error)) {
        command->chunk_max_bytes = disk_shorter(command->chunk_bytes);
        if (error != -ENOMEM) /* which it may have again for the next one */
            command->learnt_bytes = command->chunk_max_bytes;
        send(disk, command);
    } else if (command->unanswered > 1) {
        split(disk, command);
    } else if (disk->spec->config->retry_errors && may_pass(error)) {
        dissolve(disk, command);
        disk_request_rests(disk, first);
    } else {
        refuse(disk, command, error);
    }
}

/* A discard has a record for each of its parts: one could not hold all of it. */
static void discard_part_done(struct disk *disk, struct command *command)
{
    struct request *request = first_member(command);

    returned(disk, command);
    kept_done(disk->keep, command->kept, disk->flush_kind != TARGET_FLUSH_COMMAND);
    kept_release(disk->keep, command->kept, command->kept->length_bytes);
    list_remove(&request->kept_link);
    command->kept = request->kept = NULL;
}

void disk_command_completed(struct disk *disk, struct command *command, int error)
{
    bool trim = command->op == BLKIF_DISCARD;

    disk_activate(disk); /* whatever comes of it: what is sent now is sent off in the next round */
    if (error != 0) {
        failed(disk, command, error);
        return;
    }
    command->done_bytes += command->chunk_bytes;
    if (trim && record_left(command) == 0)
        discard_part_done(disk, command);
    if (command->done_bytes < command->length_bytes) {
        send(disk, command);
        return;
    }
    returned(disk, command);
    if (command->kept)
        kept_done(disk->keep, command->kept, disk->flush_kind != TARGET_FLUSH_COMMAND);
    /* All of it was good in shorter chunks, so it was their length: no more of the long ones. */
    if (command->learnt_bytes)
        target_learn_max(disk->target, trim, command->learnt_bytes);
    reply_to_all(disk, command, 0, BLKIF_OKAY);
}
