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
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gateway/config_private.h"
#include "proto/limits.h"

/* Debian's libinih can be told its line length at run time; where it cannot, the reader below
 * learns the length from the buffer that it is given, and a longer line is an error all the same.
 */
#pragma weak ini_max_line

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
    const struct key *keys = in_disk ? config_disk_keys : config_gateway_keys;
    const size_t count = in_disk ? (size_t)DISK_KEYS : (size_t)GATEWAY_KEYS;
    const struct key *others = in_disk ? config_gateway_keys : config_disk_keys;
    const size_t other_count = in_disk ? (size_t)GATEWAY_KEYS : (size_t)DISK_KEYS;
    const struct key *near = nearest_key(keys, count, name);
    char list[320] = "";
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

static void set_value(struct parse *parse, const struct key *key, struct value *value,
                      const char *text)
{
    char reason[LIMIT_REASON_BYTES * 2];

    if (value->line > 0) {
        mistake(parse, parse->line, "%s is given again, first in line %u: keep one of them",
                key->name, value->line);
        return;
    }
    value->line = parse->line;
    if (config_value_read(key, text, &value->number, reason, sizeof(reason)) < 0) {
        if (text[0] == '\0')
            mistake(parse, parse->line, "%s has no value: %s", key->name, reason);
        else
            mistake(parse, parse->line, "%s = %.100s: %s%s", key->name, text, reason,
                    strstr(text, " #") ? " (a comment after a value starts with ;)" : "");
    } else if (config_value_is_text(key)) {
        value->text = strdup(text);
        if (!value->text)
            parse->error = -ENOMEM;
    }
}

static void add_export(struct parse *parse, struct section *disk, const char *text)
{
    if (disk->export_count == LIMIT_PATHS)
        mistake(parse, parse->line, "more than %d exports for one disk: leave this one out",
                LIMIT_PATHS);
    else
        set_value(parse, &config_disk_keys[DISK_EXPORT], &disk->exports[disk->export_count++],
                  text);
}

static int on_key(void *arg, const char *section, const char *name, const char *text)
{
    struct parse *parse = arg;
    const bool in_disk = parse->where == IN_DISK;
    const struct key *keys = in_disk ? config_disk_keys : config_gateway_keys;
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
        if (strcmp(keys[i].name, name) != 0)
            continue;
        if (in_disk && i == DISK_EXPORT)
            add_export(parse, to, text);
        else
            set_value(parse, &keys[i], &to->value[i], text);
        return 1;
    }
    unknown_key(parse, name);
    return 1;
}

/* -- sections ------------------------------------------------------------------------------ */

/* Of two servers with a cache each, one that was left keeps old data, and writes it later. */
static void check_paths(struct parse *parse, const struct section *disk)
{
    const struct value *same = &disk->value[DISK_PATHS];
    const struct value *coherent = &disk->value[DISK_COHERENT];

    if (disk->export_count == 0)
        mistake(parse, disk->line, "[disk %s] has no export: add export = nbd://HOST/EXPORT",
                disk->name);
    if (disk->export_count > 1 && same->line == 0 && coherent->number == 0)
        mistake(parse, disk->exports[1].line,
                "a second export for [disk %s]: add paths = same-server if they are addresses of "
                "one server process, or coherent = yes if no server keeps a cache of its own (else "
                "one that was left would write old data back later), or keep one export",
                disk->name);
    if (same->line > 0 && coherent->number != 0)
        mistake(parse, same->line > coherent->line ? same->line : coherent->line,
                "paths = same-server means one server and coherent = yes several: keep the one "
                "that is true");
    for (unsigned i = 1; i < disk->export_count; i++)
        for (unsigned j = 0; j < i; j++) {
            const struct value *a = &disk->exports[j];
            const struct value *b = &disk->exports[i];

            if (a->text && b->text && config_uri_identity(a->text) == config_uri_identity(b->text))
                mistake(parse, b->line, "the same export as in line %u: keep one of them", a->line);
        }
}

static bool is_encrypted(const struct value *uri)
{
    return uri->text && strncmp(uri->text, "nbds", 4) == 0;
}

static void check_tls(struct parse *parse, const struct section *disk)
{
    const struct value *psk = &disk->value[DISK_TLS_PSK_FILE];
    const struct value *certificates = &disk->value[DISK_TLS_CERTIFICATES];
    const struct value *username = &disk->value[DISK_TLS_USERNAME];
    const struct value *plain = NULL;
    const struct value *encrypted = NULL;

    for (unsigned i = disk->export_count; i-- > 0;) {
        if (is_encrypted(&disk->exports[i]))
            encrypted = &disk->exports[i];
        else if (disk->exports[i].text)
            plain = &disk->exports[i];
    }
    for (size_t i = DISK_TLS_CERTIFICATES; plain && !encrypted && i <= DISK_TLS_USERNAME; i++)
        if (disk->value[i].line > 0)
            mistake(parse, disk->value[i].line,
                    "%s, but the export in line %u is not encrypted: write nbds:// (or "
                    "nbds+unix://) there, or leave this key out",
                    config_disk_keys[i].name, plain->line);
    if (plain && encrypted)
        mistake(parse, plain->line,
                "the export in line %u is encrypted and this one is not: whoever cuts that one off "
                "could read along here; write nbds:// (or nbds+unix://) for all or for none",
                encrypted->line);
    if (psk->line > 0 && certificates->line > 0)
        mistake(parse, psk->line > certificates->line ? psk->line : certificates->line,
                "tls-certificates and tls-psk-file for one disk: keep the one its server uses");
    if (username->line > 0 && psk->line == 0)
        mistake(parse, username->line,
                "tls-username without tls-psk-file: it names a key there, so add it");
}

static void end_section(struct parse *parse)
{
    if (parse->where == IN_DISK) {
        check_paths(parse, &parse->disks[parse->disk_count - 1]);
        check_tls(parse, &parse->disks[parse->disk_count - 1]);
    }
    parse->where = IN_UNKNOWN;
}

/* Room for one more, twice as much whenever it is full. NULL: out of memory. */
static struct section *next_disk(struct parse *parse)
{
    size_t count = parse->disk_count;
    struct section *disks = parse->disks;

    if ((count & (count - 1)) == 0) {
        disks = reallocarray(disks, count ? 2 * count : 1, sizeof(*disks));
        if (!disks)
            return NULL;
        parse->disks = disks;
    }
    return &disks[count];
}

static void start_disk(struct parse *parse, const char *name)
{
    struct section *disk;

    if (parse->disk_count == LIMIT_DISKS) {
        mistake(parse, parse->line, "more than %d disks: leave this one out", LIMIT_DISKS);
        return;
    }
    if (name[0] == '\0')
        mistake(parse, parse->line, "a disk without a name: write [disk NAME]");
    else if (!config_is_name(name, "._-"))
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
    disk = next_disk(parse);
    if (!disk) {
        parse->error = -ENOMEM;
        return;
    }
    *disk = (struct section){.line = parse->line, .name = strdup(name)};
    if (!disk->name) {
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

/* The one check across sections, so it waits for the file's end. */
static void check_workers(struct parse *parse, unsigned workers)
{
    const unsigned line = parse->gateway.value[GATEWAY_WORKERS].line;

    for (size_t i = 0; i < parse->disk_count; i++) {
        const struct value *worker = &parse->disks[i].value[DISK_WORKER];

        if (worker->number < (long long)workers)
            continue;
        if (line > 0)
            mistake(parse, worker->line,
                    "worker = %lld, but line %u says workers = %u: write a "
                    "number from 0 to %u",
                    worker->number, line, workers, workers - 1);
        else
            mistake(parse, worker->line,
                    "worker = %lld, but this machine gets %u workers: write a "
                    "number from 0 to %u, or workers = in [gateway]",
                    worker->number, workers, workers - 1);
    }
}

static void section_free(struct section *section)
{
    for (size_t i = 0; i < SECTION_KEYS; i++)
        free(section->value[i].text);
    for (unsigned i = 0; i < section->export_count; i++)
        free(section->exports[i].text);
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
    workers = config_tree_workers(&parse.gateway);
    if (workers > 0)
        check_workers(&parse, workers);
    if (parse.error < 0)
        error = cannot_read(&parse, parse.error);
    else if (parse.mistakes > 0)
        error = -EINVAL;
    else
        error = config_tree_make(&parse.gateway, parse.disks, parse.disk_count, ret_config);
    parse_free(&parse);
    free(text);
    return error;
}
