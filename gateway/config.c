/*
 * The file is taken apart line by line here and inside a line by libinih: it alone knows what is a
 * comment, a value or a header, but it reports only a file's first bad line, cuts long lines and
 * names silently, and joins indented lines to the key above. One line at a time none of that can
 * pass unseen.
 *
 * Each section is first kept as values with their line numbers, checked as a whole where it ends,
 * and turned into the immutable tree only if the file holds no mistake at all.
 */
#include "gateway/config.h"

#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/log.h"
#include "proto/limits.h"

/* Debian's libinih can be told its line length at run time; where it cannot, the reader below
 * learns the length from the buffer that it is given, and a longer line is an error all the same.
 */
#pragma weak ini_max_line

enum key_kind { KEY_BOOL, KEY_NUMBER, KEY_NAME, KEY_PATH, KEY_URI, KEY_LEVEL };

struct key {
    const char *name;
    enum key_kind kind;
    long min; /* of a number */
    long max;
};

enum gateway_key {
    GATEWAY_WORKERS,
    GATEWAY_ALLOW_URI,
    GATEWAY_LOCK,
    GATEWAY_DOMID,
    GATEWAY_CONNECT_TIMEOUT,
    GATEWAY_QUEUES,
    GATEWAY_RING_ORDER,
    GATEWAY_INDIRECT,
    GATEWAY_LOG_LEVEL,
    GATEWAY_KEYS,
};

static const struct key gateway_keys[GATEWAY_KEYS] = {
    [GATEWAY_WORKERS] = {"workers", KEY_NUMBER, 1, LIMIT_WORKERS},
    [GATEWAY_ALLOW_URI] = {"allow-uri", KEY_BOOL},
    [GATEWAY_LOCK] = {"lock", KEY_PATH},
    [GATEWAY_DOMID] = {"domid", KEY_NUMBER, 0, 0x7FEF}, /* above: Xen's special domains */
    [GATEWAY_CONNECT_TIMEOUT] = {"connect-timeout", KEY_NUMBER, 1, LIMIT_CONNECT_MS / 1000},
    [GATEWAY_QUEUES] = {"queues", KEY_NUMBER, 1, LIMIT_QUEUES},
    [GATEWAY_RING_ORDER] = {"ring-page-order", KEY_NUMBER, 0, LIMIT_RING_ORDER},
    [GATEWAY_INDIRECT] = {"indirect-segments", KEY_NUMBER, 0, LIMIT_SEGMENTS},
    [GATEWAY_LOG_LEVEL] = {"log-level", KEY_LEVEL},
};

enum disk_key {
    DISK_EXPORT,
    DISK_READ_ONLY,
    DISK_ACCEPT_VOLATILE,
    DISK_SHARED,
    DISK_WORKER,
    DISK_TLS_CERTIFICATES,
    DISK_TLS_PSK_FILE,
    DISK_TLS_USERNAME,
    DISK_KEYS,
};

static const struct key disk_keys[DISK_KEYS] = {
    [DISK_EXPORT] = {"export", KEY_URI},
    [DISK_READ_ONLY] = {"read-only", KEY_BOOL},
    [DISK_ACCEPT_VOLATILE] = {"accept-volatile", KEY_BOOL},
    [DISK_SHARED] = {"shared", KEY_BOOL},
    [DISK_WORKER] = {"worker", KEY_NUMBER, 0, LIMIT_WORKERS - 1},
    [DISK_TLS_CERTIFICATES] = {"tls-certificates", KEY_PATH},
    [DISK_TLS_PSK_FILE] = {"tls-psk-file", KEY_PATH},
    [DISK_TLS_USERNAME] = {"tls-username", KEY_NAME},
};

static const char *const level_names[] = {
    [LOG_LEVEL_ERROR] = "error",
    [LOG_LEVEL_WARNING] = "warning",
    [LOG_LEVEL_INFO] = "info",
    [LOG_LEVEL_DEBUG] = "debug",
};

enum { LEVELS = sizeof(level_names) / sizeof(level_names[0]) };

struct value {
    unsigned line; /* 0: not given */
    long number;   /* of a boolean, number or level; else 0 */
    char *text;    /* of a name, path or URI; NULL also if it was wrong */
};

/* A section has room for either kind of keys. */
enum { SECTION_KEYS = (int)GATEWAY_KEYS > (int)DISK_KEYS ? (int)GATEWAY_KEYS : (int)DISK_KEYS };

struct section {
    unsigned line;
    char *name; /* of a disk */
    struct value value[SECTION_KEYS];
};

enum where { NOWHERE, IN_GATEWAY, IN_DISK, IN_UNKNOWN };

struct parse {
    const char *path;
    void (*complain)(void *arg, const char *text);
    void *arg;
    unsigned line;
    unsigned mistakes;
    int error; /* -ENOMEM; a mistake is not an error of the parse */
    enum where where;
    struct section gateway;
    struct section *disks; /* the last one is the current one */
    size_t disk_count;
};

/* -- complaints ---------------------------------------------------------------------------- */

static void mistake(struct parse *parse, unsigned line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void mistake(struct parse *parse, unsigned line, const char *format, ...)
{
    char text[1024];
    va_list args;
    int used = snprintf(text, sizeof(text), "%.400s:%u: ", parse->path, line);

    if (used < 0)
        used = 0;
    va_start(args, format);
    vsnprintf(text + used, sizeof(text) - (size_t)used, format, args);
    va_end(args);
    parse->mistakes++;
    parse->complain(parse->arg, text);
}

static int cannot_read(struct parse *parse, int error)
{
    char text[512];

    snprintf(text, sizeof(text), "%.400s: cannot be read: %s", parse->path, strerror(-error));
    parse->complain(parse->arg, text);
    return error;
}

/* Levenshtein's distance, for names as short as keys are; anything longer is far away. */
static size_t distance(const char *a, const char *b)
{
    enum { LONGEST = 24 };
    size_t row[LONGEST + 1];
    const size_t b_length = strlen(b);

    if (strlen(a) > LONGEST || b_length > LONGEST)
        return LONGEST;
    for (size_t j = 0; j <= b_length; j++)
        row[j] = j;
    for (size_t i = 0; a[i]; i++) {
        size_t diagonal = row[0];

        row[0] = i + 1;
        for (size_t j = 0; j < b_length; j++) {
            const size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
            const size_t shorter = row[j] < row[j + 1] ? row[j] : row[j + 1];

            diagonal = row[j + 1];
            row[j + 1] = replaced <= shorter ? replaced : shorter + 1;
        }
    }
    return row[b_length];
}

static const struct key *nearest_key(const struct key *keys, size_t count, const char *name)
{
    for (size_t near = 0; near <= 2; near++)
        for (size_t i = 0; i < count; i++)
            if (distance(name, keys[i].name) == near)
                return &keys[i];
    return NULL;
}

static void unknown_key(struct parse *parse, const char *name)
{
    const bool in_disk = parse->where == IN_DISK;
    const struct key *keys = in_disk ? disk_keys : gateway_keys;
    const size_t count = in_disk ? (size_t)DISK_KEYS : (size_t)GATEWAY_KEYS;
    const struct key *others = in_disk ? gateway_keys : disk_keys;
    const size_t other_count = in_disk ? (size_t)GATEWAY_KEYS : (size_t)DISK_KEYS;
    const struct key *near = nearest_key(keys, count, name);
    char list[160] = "";
    size_t used = 0;

    for (size_t i = 0; i < other_count; i++) {
        if (strcmp(others[i].name, name) == 0) {
            mistake(parse, parse->line, "%s does not belong here: write it in a section %s", name,
                    in_disk ? "[gateway]" : "[disk NAME]");
            return;
        }
    }
    for (size_t i = 0; i < count && used < sizeof(list); i++)
        used +=
            (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", i ? ", " : "", keys[i].name);
    if (near)
        mistake(parse, parse->line, "unknown key \"%.60s\": did you mean %s? (known: %s)", name,
                near->name, list);
    else
        mistake(parse, parse->line, "unknown key \"%.60s\": write one of %s", name, list);
}

static void bad_value(struct parse *parse, const struct key *key, const char *value)
{
    char want[100];

    switch (key->kind) {
    case KEY_BOOL: snprintf(want, sizeof(want), "yes or no"); break;
    case KEY_NUMBER:
        snprintf(want, sizeof(want), "a number from %ld to %ld", key->min, key->max);
        break;
    case KEY_NAME:
        snprintf(want, sizeof(want), "letters, digits and any of . _ - @ + / (64 at most)");
        break;
    case KEY_PATH: snprintf(want, sizeof(want), "an absolute path, as in /etc/blkgate/..."); break;
    case KEY_URI: snprintf(want, sizeof(want), "an NBD URI, as in nbd://HOST/EXPORT"); break;
    case KEY_LEVEL: snprintf(want, sizeof(want), "error, warning, info or debug"); break;
    }
    if (value[0] == '\0')
        mistake(parse, parse->line, "%s has no value: write %s", key->name, want);
    else
        mistake(parse, parse->line, "%s = %.100s: write %s%s", key->name, value, want,
                strstr(value, " #") ? " (a comment after a value starts with ;)" : "");
}

/* -- values -------------------------------------------------------------------------------- */

static int parse_bool(const char *text, long *ret_number)
{
    static const char *const words[2][4] = {{"no", "false", "off", "0"},
                                            {"yes", "true", "on", "1"}};

    for (long number = 0; number < 2; number++) {
        for (size_t i = 0; i < 4; i++) {
            if (strcasecmp(text, words[number][i]) == 0) {
                *ret_number = number;
                return 0;
            }
        }
    }
    return -EINVAL;
}

/* Digits and nothing else: strtol would also take " +0x10". */
static int parse_number(const char *text, long min, long max, long *ret_number)
{
    const size_t length = strlen(text);
    long number = 0;

    if (length < 1 || length > 9 || strspn(text, "0123456789") != length)
        return -EINVAL;
    number = strtol(text, NULL, 10);
    if (number < min || number > max)
        return -ERANGE;
    *ret_number = number;
    return 0;
}

static int parse_level(const char *text, long *ret_number)
{
    for (long level = 0; level < LEVELS; level++) {
        if (strcasecmp(text, level_names[level]) == 0) {
            *ret_number = level;
            return 0;
        }
    }
    return -EINVAL;
}

static bool is_name(const char *text, const char *signs)
{
    for (; *text; text++) {
        const char c = *text;
        const bool alnum =
            (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');

        if (!alnum && !strchr(signs, c))
            return false;
    }
    return true;
}

static int check_text(struct parse *parse, const struct key *key, const char *text)
{
    char reason[LIMIT_REASON_BYTES * 2];

    if (text[0] == '\0')
        return -EINVAL;
    switch (key->kind) {
    case KEY_NAME: return strlen(text) <= 64 && is_name(text, "._-@+/") ? 0 : -EINVAL;
    case KEY_PATH: return text[0] == '/' && strlen(text) < PATH_MAX ? 0 : -EINVAL;
    case KEY_URI:
        if (config_uri_check(text, reason, sizeof(reason)) == 0)
            return 0;
        mistake(parse, parse->line, "%s = %.100s: %s", key->name, text, reason);
        return -EALREADY; /* the better complaint was made */
    default: return -EINVAL;
    }
}

static void set_value(struct parse *parse, const struct key *key, struct value *value,
                      const char *text)
{
    int error = 0;

    if (value->line > 0) {
        mistake(parse, parse->line, "%s is given again, first in line %u: keep one of them",
                key->name, value->line);
        return;
    }
    value->line = parse->line;
    switch (key->kind) {
    case KEY_BOOL: error = parse_bool(text, &value->number); break;
    case KEY_NUMBER: error = parse_number(text, key->min, key->max, &value->number); break;
    case KEY_LEVEL: error = parse_level(text, &value->number); break;
    default:
        error = check_text(parse, key, text);
        if (error < 0)
            break;
        value->text = strdup(text);
        if (!value->text)
            parse->error = -ENOMEM;
    }
    if (error < 0 && error != -EALREADY)
        bad_value(parse, key, text);
}

static int on_key(void *arg, const char *section, const char *name, const char *text)
{
    struct parse *parse = arg;
    const bool in_disk = parse->where == IN_DISK;
    const struct key *keys = in_disk ? disk_keys : gateway_keys;
    const size_t count = in_disk ? (size_t)DISK_KEYS : (size_t)GATEWAY_KEYS;
    struct section *to = in_disk ? &parse->disks[parse->disk_count - 1] : &parse->gateway;

    (void)section; /* always "": libinih sees one line */
    if (parse->where == NOWHERE) {
        mistake(parse, parse->line,
                "%.60s stands before the first section: write [gateway] or "
                "[disk NAME] above it",
                name);
        parse->where = IN_UNKNOWN; /* said once */
    }
    if (parse->where == IN_UNKNOWN)
        return 1;
    for (size_t i = 0; i < count; i++) {
        if (strcmp(keys[i].name, name) == 0) {
            set_value(parse, &keys[i], &to->value[i], text);
            return 1;
        }
    }
    unknown_key(parse, name);
    return 1;
}

/* -- sections ------------------------------------------------------------------------------ */

static void check_disk(struct parse *parse, const struct section *disk)
{
    const struct value *uri = &disk->value[DISK_EXPORT];
    const struct value *psk = &disk->value[DISK_TLS_PSK_FILE];
    const struct value *certificates = &disk->value[DISK_TLS_CERTIFICATES];
    const struct value *username = &disk->value[DISK_TLS_USERNAME];

    if (uri->line == 0)
        mistake(parse, disk->line, "[disk %s] has no export: add export = nbd://HOST/EXPORT",
                disk->name);
    if (uri->text && strncmp(uri->text, "nbds", 4) != 0)
        for (size_t i = DISK_TLS_CERTIFICATES; i <= DISK_TLS_USERNAME; i++)
            if (disk->value[i].line > 0)
                mistake(parse, disk->value[i].line,
                        "%s, but the export in line %u is not encrypted: write nbds:// (or "
                        "nbds+unix://) there, or leave this key out",
                        disk_keys[i].name, uri->line);
    if (psk->line > 0 && certificates->line > 0)
        mistake(parse, psk->line > certificates->line ? psk->line : certificates->line,
                "tls-certificates and tls-psk-file for one disk: keep the one its server uses");
    if (username->line > 0 && psk->line == 0)
        mistake(parse, username->line,
                "tls-username without tls-psk-file: it names a key there, so add it");
}

static void end_section(struct parse *parse)
{
    if (parse->where == IN_DISK)
        check_disk(parse, &parse->disks[parse->disk_count - 1]);
    parse->where = IN_UNKNOWN;
}

static void start_disk(struct parse *parse, const char *name)
{
    struct section *disks = NULL;

    if (parse->disk_count == LIMIT_DISKS) {
        mistake(parse, parse->line, "more than %d disks: leave this one out", LIMIT_DISKS);
        return;
    }
    if (name[0] == '\0')
        mistake(parse, parse->line, "a disk without a name: write [disk NAME]");
    else if (!is_name(name, "._-"))
        mistake(parse, parse->line,
                "[disk %.100s]: a name is made of letters, digits and any of . _ -", name);
    for (size_t i = 0; i < parse->disk_count; i++) {
        if (strcmp(parse->disks[i].name, name) == 0) {
            mistake(parse, parse->line,
                    "[disk %.100s] again, first in line %u: give one of them another name", name,
                    parse->disks[i].line);
            break;
        }
    }
    /* Even one with a wrong name is kept, so that its keys are checked in this run as well. */
    disks = reallocarray(parse->disks, parse->disk_count + 1, sizeof(*disks));
    if (!disks) {
        parse->error = -ENOMEM;
        return;
    }
    parse->disks = disks;
    disks[parse->disk_count] = (struct section){.line = parse->line, .name = strdup(name)};
    if (!disks[parse->disk_count].name) {
        parse->error = -ENOMEM;
        return;
    }
    parse->disk_count++;
    parse->where = IN_DISK;
}

static void start_section(struct parse *parse, char *title)
{
    char *name = title + strspn(title, " \t");
    size_t length = strlen(name);

    while (length > 0 && strchr(" \t", name[length - 1]))
        name[--length] = '\0';
    if (strcmp(name, "gateway") == 0) {
        if (parse->gateway.line > 0)
            mistake(parse, parse->line, "[gateway] again, first in line %u: write its keys there",
                    parse->gateway.line);
        else
            parse->gateway.line = parse->line;
        parse->where = IN_GATEWAY;
    } else if (strncmp(name, "disk", 4) == 0 && strchr(" \t", name[4])) { /* also its NUL */
        start_disk(parse, name + 4 + strspn(name + 4, " \t"));
    } else {
        mistake(parse, parse->line, "unknown section [%.60s]: write [gateway] or [disk NAME]",
                name);
    }
}

/* -- lines --------------------------------------------------------------------------------- */

/* What libinih reads: one line, and after a header a key, for it shows headers only with keys. */
struct feed {
    const char *lines[2];
    size_t given;
    char *title; /* of a header */
    int longest; /* > 0: the line was longer than that */
};

static char *read_line(char *buffer, int bytes, void *arg)
{
    struct feed *feed = arg;
    const char *line = feed->given < 2 ? feed->lines[feed->given] : NULL;
    const size_t length = line ? strlen(line) : 0;

    if (!line)
        return NULL;
    feed->given++;
    if (length + 2 > (size_t)bytes) {
        feed->longest = bytes - 2;
        return NULL;
    }
    snprintf(buffer, (size_t)bytes, "%s\n", line);
    return buffer;
}

static int on_header(void *arg, const char *section, const char *name, const char *text)
{
    struct feed *feed = arg;

    (void)name;
    (void)text;
    feed->title = strdup(section);
    return 1;
}

static void too_long(struct parse *parse, const struct feed *feed)
{
    mistake(parse, parse->line, "the line is longer than %d bytes: shorten it", feed->longest);
}

static void parse_header(struct parse *parse, const char *line)
{
    struct feed feed = {.lines = {line, "x="}};
    size_t length = 0;
    const char *rest = NULL;
    int result = 0;

    end_section(parse);
    result = ini_parse_stream(read_line, &feed, on_header, &feed);
    if (result == -2 || (result == 0 && feed.longest == 0 && !feed.title)) {
        parse->error = -ENOMEM;
    } else if (feed.longest > 0) {
        too_long(parse, &feed);
    } else if (result != 0) {
        mistake(parse, parse->line, "a section without ]: write [gateway] or [disk NAME]");
    } else {
        length = strlen(feed.title);
        rest = line + 1 + length;
        if (strncmp(line + 1, feed.title, length) != 0 || *rest != ']') {
            mistake(parse, parse->line, "the section's name is longer than %zu bytes: shorten it",
                    length);
        } else {
            rest += 1 + strspn(rest + 1, " \t");
            if (*rest && *rest != ';' && *rest != '#')
                mistake(parse, parse->line,
                        "\"%.60s\" after a section's ]: write it on a line of "
                        "its own",
                        rest);
            start_section(parse, feed.title);
        }
    }
    free(feed.title);
}

static void parse_line(struct parse *parse, const char *line)
{
    struct feed feed = {.lines = {line}};
    int result = 0;

    if (*line == '[') {
        parse_header(parse, line);
        return;
    }
    if (*line == '\0' || *line == ';' || *line == '#')
        return; /* comments may be as long as they like */
    result = ini_parse_stream(read_line, &feed, on_key, parse);
    if (result == -2)
        parse->error = -ENOMEM;
    else if (feed.longest > 0)
        too_long(parse, &feed);
    else if (result != 0)
        mistake(parse, parse->line,
                "\"%.60s\" is not understood: write KEY = VALUE, a [section], or a comment "
                "starting with #",
                line);
}

/* Stops at the first line that no text file has: what follows would only be noise. */
static void parse_text(struct parse *parse, char *text, size_t bytes)
{
    char *const end = text + bytes; /* one past it may be written */
    char *next = NULL;

    if (bytes >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) /* an editor's byte order mark */
        text += 3;
    for (char *line = text; line < end && parse->error == 0; line = next) {
        char *stop = memchr(line, '\n', (size_t)(end - line));

        if (!stop)
            stop = end;
        next = stop + 1;
        parse->line++;
        if (stop > line && stop[-1] == '\r')
            stop--;
        *stop = '\0';
        for (const char *at = line; at < stop; at++) {
            const unsigned char c = (unsigned char)*at;

            if ((c < 0x20 && c != '\t') || c == 0x7f) {
                mistake(parse, parse->line,
                        "byte 0x%02x is not text: write the file in ASCII or UTF-8 (the rest of "
                        "it was not read)",
                        c);
                return;
            }
        }
        parse_line(parse, line + strspn(line, " \t"));
    }
    end_section(parse);
}

/* -- the whole file ------------------------------------------------------------------------ */

static int read_file(struct parse *parse, char **ret_text, size_t *ret_bytes)
{
    const size_t room = LIMIT_CONFIG_BYTES + 1;
    size_t used = 0;
    ssize_t got = 0;
    int error = 0;
    char *text = NULL;
    const int fd = open(parse->path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

    if (fd < 0)
        return cannot_read(parse, -errno);
    text = malloc(room + 1);
    if (!text) {
        error = cannot_read(parse, -ENOMEM);
        goto out;
    }
    while (used < room && (got = read(fd, text + used, room - used)) != 0) {
        if (got < 0 && errno != EINTR) {
            error = cannot_read(parse, -errno);
            goto out;
        }
        used += got > 0 ? (size_t)got : 0;
    }
    if (used > LIMIT_CONFIG_BYTES) {
        error = cannot_read(parse, -EFBIG);
        goto out;
    }
    *ret_text = text;
    *ret_bytes = used;
    text = NULL;
out:
    free(text);
    close(fd);
    return error;
}

static long number_or(const struct value *value, long otherwise)
{
    return value->line > 0 ? value->number : otherwise;
}

static unsigned cpus_up_to(long most)
{
    const long cpus = sysconf(_SC_NPROCESSORS_ONLN);

    return (unsigned)(cpus < 1 ? 1 : cpus > most ? most : cpus);
}

/* The one check across sections, so it waits for the file's end. */
static void check_workers(struct parse *parse, unsigned workers)
{
    const unsigned line = parse->gateway.value[GATEWAY_WORKERS].line;

    for (size_t i = 0; i < parse->disk_count; i++) {
        const struct value *worker = &parse->disks[i].value[DISK_WORKER];

        if (worker->number < (long)workers)
            continue;
        if (line > 0)
            mistake(parse, worker->line,
                    "worker = %ld, but line %u says workers = %u: write a "
                    "number from 0 to %u",
                    worker->number, line, workers, workers - 1);
        else
            mistake(parse, worker->line,
                    "worker = %ld, but this machine gets %u workers: write a "
                    "number from 0 to %u, or workers = in [gateway]",
                    worker->number, workers, workers - 1);
    }
}

/* Takes the texts out of `from`. */
static void make_disk(struct section *from, struct config_disk *ret_disk)
{
    const struct value *value = from->value;

    *ret_disk = (struct config_disk){
        .name = from->name,
        .export_uri = value[DISK_EXPORT].text,
        .tls_certificates = value[DISK_TLS_CERTIFICATES].text,
        .tls_psk_file = value[DISK_TLS_PSK_FILE].text,
        .tls_username = value[DISK_TLS_USERNAME].text,
        .readonly = value[DISK_READ_ONLY].number != 0,
        .accept_volatile = value[DISK_ACCEPT_VOLATILE].number != 0,
        .shared = value[DISK_SHARED].number != 0,
        .worker = (int)number_or(&value[DISK_WORKER], -1),
    };
    *from = (struct section){0};
}

static int make_config(struct parse *parse, unsigned workers, struct config **ret_config)
{
    const struct value *value = parse->gateway.value;
    struct config *config = calloc(1, sizeof(*config));

    if (!config)
        return -ENOMEM;
    config->workers = workers;
    config->allow_uri = value[GATEWAY_ALLOW_URI].number != 0;
    config->domid = (uint16_t)value[GATEWAY_DOMID].number;
    config->connect_timeout_ms =
        (uint32_t)number_or(&value[GATEWAY_CONNECT_TIMEOUT], LIMIT_CONNECT_MS / 1000) * 1000;
    config->queues = (uint32_t)number_or(&value[GATEWAY_QUEUES], cpus_up_to(LIMIT_QUEUES));
    config->ring_page_order = (uint32_t)number_or(&value[GATEWAY_RING_ORDER], LIMIT_RING_ORDER);
    config->indirect_segments = (uint32_t)number_or(&value[GATEWAY_INDIRECT], LIMIT_SEGMENTS);
    config->log_level = (int)number_or(&value[GATEWAY_LOG_LEVEL], LOG_LEVEL_INFO);
    config->lock_path =
        strdup(value[GATEWAY_LOCK].text ? value[GATEWAY_LOCK].text : "/run/blkgate/lock");
    config->disks = calloc(parse->disk_count + 1, sizeof(*config->disks)); /* none: not NULL */
    if (!config->lock_path || !config->disks) {
        config_free(config);
        return -ENOMEM;
    }
    config->disk_count = parse->disk_count;
    for (size_t i = 0; i < config->disk_count; i++)
        make_disk(&parse->disks[i], &config->disks[i]);
    *ret_config = config;
    return 0;
}

static void section_free(struct section *section)
{
    for (size_t i = 0; i < SECTION_KEYS; i++)
        free(section->value[i].text);
    free(section->name);
}

static void parse_free(struct parse *parse)
{
    section_free(&parse->gateway);
    for (size_t i = 0; i < parse->disk_count; i++)
        section_free(&parse->disks[i]);
    free(parse->disks);
}

int config_load(const char *path, void (*complain)(void *arg, const char *text), void *arg,
                struct config **ret_config)
{
    struct parse parse = {.path = path, .complain = complain, .arg = arg};
    unsigned workers = 0;
    char *text = NULL;
    size_t bytes = 0;
    int error = read_file(&parse, &text, &bytes);

    if (error < 0)
        return error;
    if (&ini_max_line && ini_max_line < LIMIT_CONFIG_LINE_BYTES)
        ini_max_line = LIMIT_CONFIG_LINE_BYTES;
    parse_text(&parse, text, bytes);
    workers = (unsigned)number_or(&parse.gateway.value[GATEWAY_WORKERS], cpus_up_to(4));
    if (workers > 0) /* 0: the file gave a wrong number, which was complained about */
        check_workers(&parse, workers);
    if (parse.error < 0)
        error = cannot_read(&parse, parse.error);
    else if (parse.mistakes > 0)
        error = -EINVAL;
    else
        error = make_config(&parse, workers, ret_config);
    parse_free(&parse);
    free(text);
    return error;
}

/* -- the tree ------------------------------------------------------------------------------ */

static void disk_clear(struct config_disk *disk)
{
    free(disk->name);
    free(disk->export_uri);
    free(disk->tls_certificates);
    free(disk->tls_psk_file);
    free(disk->tls_username);
}

void config_free(struct config *config)
{
    if (!config)
        return;
    for (size_t i = 0; i < config->disk_count; i++)
        disk_clear(&config->disks[i]);
    free(config->disks);
    free(config->lock_path);
    free(config);
}

static const char *yes_no(bool value)
{
    return value ? "yes" : "no";
}

static void print_text(FILE *out, enum disk_key key, const char *value)
{
    if (value)
        fprintf(out, "%s = %s\n", disk_keys[key].name, value);
}

void config_print(const struct config *config, FILE *out)
{
    fprintf(out, "[gateway]\nworkers = %u\nallow-uri = %s\nlock = %s\ndomid = %u\n",
            config->workers, yes_no(config->allow_uri), config->lock_path, config->domid);
    fprintf(out, "connect-timeout = %u\nlog-level = %s\n", config->connect_timeout_ms / 1000,
            level_names[config->log_level]);
    fprintf(out, "queues = %u\nring-page-order = %u\nindirect-segments = %u\n", config->queues,
            config->ring_page_order, config->indirect_segments);
    for (size_t i = 0; i < config->disk_count; i++) {
        const struct config_disk *disk = &config->disks[i];

        fprintf(out, "\n[disk %s]\nexport = %s\nread-only = %s\n", disk->name, disk->export_uri,
                yes_no(disk->readonly));
        fprintf(out, "accept-volatile = %s\nshared = %s\n", yes_no(disk->accept_volatile),
                yes_no(disk->shared));
        if (disk->worker >= 0)
            fprintf(out, "worker = %d\n", disk->worker);
        print_text(out, DISK_TLS_CERTIFICATES, disk->tls_certificates);
        print_text(out, DISK_TLS_PSK_FILE, disk->tls_psk_file);
        print_text(out, DISK_TLS_USERNAME, disk->tls_username);
    }
}

const struct config_disk *config_disk_find(const struct config *config, const char *name)
{
    for (size_t i = 0; i < config->disk_count; i++)
        if (strcmp(config->disks[i].name, name) == 0)
            return &config->disks[i];
    return NULL;
}

int config_disk_from_uri(const char *uri, struct config_disk **ret_disk)
{
    char reason[LIMIT_REASON_BYTES];
    struct config_disk *disk = NULL;

    if (config_uri_check(uri, reason, sizeof(reason)) < 0)
        return -EINVAL;
    disk = calloc(1, sizeof(*disk));
    if (!disk)
        return -ENOMEM;
    disk->name = strdup(uri);
    disk->export_uri = strdup(uri);
    disk->worker = -1;
    if (!disk->name || !disk->export_uri) {
        config_disk_free(disk);
        return -ENOMEM;
    }
    *ret_disk = disk;
    return 0;
}

void config_disk_free(struct config_disk *disk)
{
    if (!disk)
        return;
    disk_clear(disk);
    free(disk);
}
