/* The immutable tree: made of a file's sections, printed as one, looked up. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gateway/config_private.h"
#include "gateway/log.h"

static long long number_or(const struct value *value, long long otherwise)
{
    return value->line > 0 ? value->number : otherwise;
}

static unsigned cpus_up_to(long most)
{
    const long cpus = sysconf(_SC_NPROCESSORS_ONLN);

    return (unsigned)(cpus < 1 ? 1 : cpus > most ? most : cpus);
}

/* In whole MiB, so that it is read well. */
static long long eighth_of_memory(void)
{
    const long long bytes = (long long)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGE_SIZE);
    const long long mib = bytes >> 23;

    return (mib < 1 ? 1 : mib > LIMIT_MEMORY_MIB ? LIMIT_MEMORY_MIB : mib) << 20;
}

unsigned config_tree_workers(const struct section *gateway)
{
    return (unsigned)number_or(&gateway->value[GATEWAY_WORKERS], cpus_up_to(4));
}

/* -- making ---------------------------------------------------------------------------------- */

static char *take_text(struct value *value)
{
    char *text = value->text;

    value->text = NULL;
    return text;
}

/* The words of `text` as an argv: one piece of memory, pointers first. */
static char **make_argv(const char *text)
{
    const char *const blanks = " \t";
    const size_t bytes = strlen(text) + 1;
    char **argv = malloc((LIMIT_FENCE_WORDS + 1) * sizeof(*argv) + bytes);
    char *copy = NULL;
    char *next = NULL;
    size_t count = 0;

    if (!argv)
        return NULL;
    copy = memcpy(&argv[LIMIT_FENCE_WORDS + 1], text, bytes);
    for (char *word = strtok_r(copy, blanks, &next); word; word = strtok_r(NULL, blanks, &next))
        argv[count++] = word;
    argv[count] = NULL;
    return argv;
}

static int make_disk(struct section *from, struct config_disk *ret_disk)
{
    struct value *value = from->value;

    *ret_disk = (struct config_disk){
        .name = from->name,
        .export_count = from->export_count,
        .same_server = value[DISK_PATHS].line > 0,
        .coherent = value[DISK_COHERENT].number != 0,
        .connections = (unsigned)number_or(&value[DISK_CONNECTIONS], 1),
        .hold_ms = (uint32_t)value[DISK_ON_LOSS].number,
        .retry_errors = value[DISK_ON_ERROR].number != 0,
        .command_timeout_ms = (uint32_t)number_or(&value[DISK_COMMAND_TIMEOUT], 30000),
        .drains = value[DISK_DRAINS].number != 0,
        .fence_time_ms = (uint32_t)number_or(&value[DISK_FENCE_TIME], 10000),
        .readonly = value[DISK_READ_ONLY].number != 0,
        .accept_volatile = value[DISK_ACCEPT_VOLATILE].number != 0,
        .shared = value[DISK_SHARED].number != 0,
        .worker = (int)number_or(&value[DISK_WORKER], -1),
        .tls_certificates = take_text(&value[DISK_TLS_CERTIFICATES]),
        .tls_psk_file = take_text(&value[DISK_TLS_PSK_FILE]),
        .tls_username = take_text(&value[DISK_TLS_USERNAME]),
    };
    from->name = NULL;
    for (unsigned i = 0; i < from->export_count; i++)
        ret_disk->export_uris[i] = take_text(&from->exports[i]);
    if (value[DISK_FENCE].text) {
        ret_disk->fence = make_argv(value[DISK_FENCE].text);
        if (!ret_disk->fence)
            return -ENOMEM;
    }
    return 0;
}

static char *text_or(const struct value *value, const char *otherwise)
{
    return strdup(value->text ? value->text : otherwise);
}

int config_tree_make(const struct section *gateway, struct section *disks, size_t disk_count,
                     struct config **ret_config)
{
    const struct value *value = gateway->value;
    struct config *config = calloc(1, sizeof(*config));
    int error = 0;

    if (!config)
        return -ENOMEM;
    config->workers = config_tree_workers(gateway);
    config->allow_uri = value[GATEWAY_ALLOW_URI].number != 0;
    config->memory_bytes = (uint64_t)number_or(&value[GATEWAY_MEMORY], eighth_of_memory());
    config->domid = (uint16_t)value[GATEWAY_DOMID].number;
    config->connect_timeout_ms =
        (uint32_t)number_or(&value[GATEWAY_CONNECT_TIMEOUT], LIMIT_CONNECT_MS);
    config->queues = (uint32_t)number_or(&value[GATEWAY_QUEUES], cpus_up_to(LIMIT_QUEUES));
    config->ring_page_order = (uint32_t)number_or(&value[GATEWAY_RING_ORDER], LIMIT_RING_ORDER);
    config->indirect_segments = (uint32_t)number_or(&value[GATEWAY_INDIRECT], LIMIT_SEGMENTS);
    config->log_level = (int)number_or(&value[GATEWAY_LOG_LEVEL], LOG_LEVEL_INFO);
    config->lock_path = text_or(&value[GATEWAY_LOCK], "/run/blkgate/lock");
    config->keep_dir = text_or(&value[GATEWAY_KEEP], "/run/blkgate/keep");
    config->disks = calloc(disk_count + 1, sizeof(*config->disks)); /* none: not NULL */
    if (!config->lock_path || !config->keep_dir || !config->disks) {
        error = -ENOMEM;
        goto fail;
    }
    while (config->disk_count < disk_count) {
        const size_t i = config->disk_count++;

        error = make_disk(&disks[i], &config->disks[i]);
        if (error < 0)
            goto fail;
    }
    *ret_config = config;
    return 0;
fail:
    config_free(config);
    return error;
}

int config_disk_from_uri(const char *uri, struct config_disk **ret_disk)
{
    char reason[LIMIT_REASON_BYTES];
    struct section section = {.export_count = 1};
    struct config_disk *disk = NULL;

    if (config_uri_check(uri, reason, sizeof(reason)) < 0)
        return -EINVAL;
    disk = calloc(1, sizeof(*disk));
    if (!disk)
        return -ENOMEM;
    section.name = strdup(uri);
    section.exports[0].text = strdup(uri);
    make_disk(&section, disk); /* without a fence it cannot fail */
    if (!disk->name || !config_disk_uri(disk)) {
        config_disk_free(disk);
        return -ENOMEM;
    }
    *ret_disk = disk;
    return 0;
}

static void disk_clear(struct config_disk *disk)
{
    free(disk->name);
    for (unsigned i = 0; i < disk->export_count; i++)
        free(disk->export_uris[i]);
    free(disk->fence);
    free(disk->tls_certificates);
    free(disk->tls_psk_file);
    free(disk->tls_username);
}

void config_disk_free(struct config_disk *disk)
{
    if (!disk)
        return;
    disk_clear(disk);
    free(disk);
}

void config_free(struct config *config)
{
    if (!config)
        return;
    for (size_t i = 0; i < config->disk_count; i++)
        disk_clear(&config->disks[i]);
    free(config->disks);
    free(config->lock_path);
    free(config->keep_dir);
    free(config);
}

/* -- printing -------------------------------------------------------------------------------- */

static void print_disk_text(FILE *out, enum disk_key key, const char *text)
{
    if (text)
        fprintf(out, "%s = %s\n", config_disk_keys[key].name, text);
}

static void print_disk(const struct config_disk *disk, FILE *out)
{
    const struct {
        enum disk_key key;
        long long number;
    } values[] = {
        {DISK_COHERENT, disk->coherent},
        {DISK_CONNECTIONS, disk->connections},
        {DISK_ON_LOSS, disk->hold_ms},
        {DISK_ON_ERROR, disk->retry_errors},
        {DISK_COMMAND_TIMEOUT, disk->command_timeout_ms},
        {DISK_DRAINS, disk->drains},
        {DISK_FENCE_TIME, disk->fence_time_ms},
        {DISK_READ_ONLY, disk->readonly},
        {DISK_ACCEPT_VOLATILE, disk->accept_volatile},
        {DISK_SHARED, disk->shared},
    };

    fprintf(out, "\n[disk %s]\n", disk->name);
    for (unsigned i = 0; i < disk->export_count; i++)
        print_disk_text(out, DISK_EXPORT, disk->export_uris[i]);
    if (disk->same_server)
        config_value_print(&config_disk_keys[DISK_PATHS], 0, out);
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
        config_value_print(&config_disk_keys[values[i].key], values[i].number, out);
    if (disk->fence) {
        fprintf(out, "%s =", config_disk_keys[DISK_FENCE].name);
        for (char **word = disk->fence; *word; word++)
            fprintf(out, " %s", *word);
        fputc('\n', out);
    }
    if (disk->worker >= 0)
        config_value_print(&config_disk_keys[DISK_WORKER], disk->worker, out);
    print_disk_text(out, DISK_TLS_CERTIFICATES, disk->tls_certificates);
    print_disk_text(out, DISK_TLS_PSK_FILE, disk->tls_psk_file);
    print_disk_text(out, DISK_TLS_USERNAME, disk->tls_username);
}

void config_print(const struct config *config, FILE *out)
{
    const struct {
        enum gateway_key key;
        long long number;
    } values[] = {
        {GATEWAY_WORKERS, config->workers},
        {GATEWAY_ALLOW_URI, config->allow_uri},
        {GATEWAY_MEMORY, (long long)config->memory_bytes},
        {GATEWAY_DOMID, config->domid},
        {GATEWAY_CONNECT_TIMEOUT, config->connect_timeout_ms},
        {GATEWAY_QUEUES, config->queues},
        {GATEWAY_RING_ORDER, config->ring_page_order},
        {GATEWAY_INDIRECT, config->indirect_segments},
        {GATEWAY_LOG_LEVEL, config->log_level},
    };

    fprintf(out, "[gateway]\nlock = %s\nkeep = %s\n", config->lock_path, config->keep_dir);
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
        config_value_print(&config_gateway_keys[values[i].key], values[i].number, out);
    for (size_t i = 0; i < config->disk_count; i++)
        print_disk(&config->disks[i], out);
}

/* -- looking up ------------------------------------------------------------------------------ */

const struct config_disk *config_disk_find(const struct config *config, const char *name)
{
    for (size_t i = 0; i < config->disk_count; i++)
        if (strcmp(config->disks[i].name, name) == 0)
            return &config->disks[i];
    return NULL;
}

const char *config_disk_uri(const struct config_disk *disk)
{
    return disk->export_uris[0];
}

uint64_t config_disk_identity(const struct config_disk *disk)
{
    return config_uri_identity(config_disk_uri(disk));
}

bool config_disk_reaches(const struct config_disk *disk, uint64_t identity)
{
    for (unsigned i = 0; i < disk->export_count; i++)
        if (config_uri_identity(disk->export_uris[i]) == identity)
            return true;
    return false;
}

bool config_disks_meet(const struct config_disk *disk, const struct config_disk *other)
{
    uint64_t identities[LIMIT_PATHS];

    for (unsigned i = 0; i < disk->export_count; i++)
        identities[i] = config_uri_identity(disk->export_uris[i]);
    for (unsigned i = 0; i < other->export_count; i++) {
        const uint64_t identity = config_uri_identity(other->export_uris[i]);

        for (unsigned j = 0; j < disk->export_count; j++)
            if (identities[j] == identity)
                return true;
    }
    return false;
}
