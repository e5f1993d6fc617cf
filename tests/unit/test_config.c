/* config: what a file may say, and what each mistake in one is answered with. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/config.h"
#include "gateway/config_private.h"
#include "gateway/log.h"
#include "proto/limits.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define DISK  "[disk a]\nexport = nbd://host/a\n"
#define DISKS "[disk a]\nexport = nbds://host/a\n"
#define TWO   DISK "export = nbd://other/a\n"

static char directory[] = "/tmp/blkgate-config-XXXXXX";
static char file[64];

struct complaints {
    unsigned count;
    char text[16384]; /* one a line */
};

static void complain(void *arg, const char *text)
{
    struct complaints *complaints = arg;
    const size_t used = strlen(complaints->text);

    complaints->count++;
    assert_null(strchr(text, '\n'));
    snprintf(complaints->text + used, sizeof(complaints->text) - used, "%s\n", text);
}

static void write_file(const void *bytes, size_t length)
{
    const int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, length), length);
    assert_int_equal(close(fd), 0);
}

static int load_bytes(const void *bytes, size_t length, struct complaints *ret_complaints,
                      struct config **ret_config)
{
    write_file(bytes, length);
    ret_complaints->count = 0;
    ret_complaints->text[0] = '\0';
    return config_load(file, complain, ret_complaints, ret_config);
}

static struct config *load(const char *text)
{
    struct complaints complaints;
    struct config *config = NULL;
    const int error = load_bytes(text, strlen(text), &complaints, &config);

    if (error < 0)
        fail_msg("not accepted: %s\n%s", text, complaints.text);
    assert_int_equal(complaints.count, 0);
    return config;
}

static char *read_all(const char *path)
{
    char *text = calloc(1, 65536);
    FILE *in = fopen(path, "r");

    assert_non_null(text);
    if (!in)
        fail_msg("%s cannot be opened: %s", path, strerror(errno));
    assert_true(fread(text, 1, 65535, in) > 0);
    fclose(in);
    return text;
}

/* The build says where the sources are; else they are where this file was compiled from. */
static char *source(const char *name)
{
    char path[4096];
#ifdef BLKGATE_SOURCE_DIR
    snprintf(path, sizeof(path), "%s/%s", BLKGATE_SOURCE_DIR, name);
#else
    const char *rest = strstr(__FILE__, "tests/unit/");

    snprintf(path, sizeof(path), "%.*s%s", (int)(rest - __FILE__), __FILE__, name);
#endif
    return read_all(path);
}

static char *sample(void)
{
    return source("etc/blkgate.conf");
}

/* With its examples and defaults no longer commented out: "# key = value", "# [section]". */
static char *sample_in_effect(void)
{
    char *text = sample();
    char *to = text;

    for (char *line = text; *line;) {
        const size_t length = strcspn(line, "\n") + 1;
        const char *key = line + 2;
        const size_t key_length = strspn(key, "abcdefghijklmnopqrstuvwxyz-");

        if (strncmp(line, "# ", 2) == 0 &&
            (*key == '[' || (key_length > 0 && strncmp(key + key_length, " = ", 3) == 0))) {
            memmove(to, key, length - 2);
            to += length - 2;
        } else {
            memmove(to, line, length);
            to += length;
        }
        line += length;
    }
    *to = '\0';
    return text;
}

/* -- what is accepted ---------------------------------------------------------------------- */

static void test_defaults(void **state)
{
    struct config *config = load("");

    (void)state;
    assert_true(config->workers >= 1 && config->workers <= 4);
    assert_false(config->allow_uri);
    assert_string_equal(config->lock_path, "/run/blkgate/lock");
    assert_int_equal(config->domid, 0);
    assert_string_equal(config->keep_dir, "/run/blkgate/keep");
    assert_int_equal(config->connect_timeout_ms, 8000);
    assert_int_equal(config->memory_bytes % (1 << 20), 0);
    assert_in_range((long long)config->memory_bytes,
                    (long long)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGE_SIZE) / 8 - (1 << 20) + 1,
                    (long long)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGE_SIZE) / 8);
    assert_true(config->queues >= 1 && config->queues <= LIMIT_QUEUES);
    assert_int_equal(config->ring_page_order, 4);
    assert_int_equal(config->indirect_segments, 256);
    assert_int_equal(config->log_level, LOG_LEVEL_INFO);
    assert_int_equal(config->disk_count, 0);
    assert_null(config_disk_find(config, "a"));
    config_free(config);
    config_free(NULL);
}

/* What a disk is that says nothing but where it is. */
static void assert_default_disk(const struct config_disk *disk)
{
    assert_int_equal(disk->export_count, 1);
    assert_false(disk->same_server || disk->coherent || disk->drains || disk->retry_errors);
    assert_false(disk->readonly || disk->accept_volatile || disk->shared);
    assert_int_equal(disk->connections, 1);
    assert_int_equal(disk->hold_ms, 0);
    assert_int_equal(disk->command_timeout_ms, 30000);
    assert_int_equal(disk->fence_time_ms, 10000);
    assert_null(disk->fence);
    assert_int_equal(disk->worker, -1);
    assert_null(disk->tls_certificates);
    assert_null(disk->tls_psk_file);
    assert_null(disk->tls_username);
}

static void test_disk_defaults(void **state)
{
    struct config *config = load(DISK);

    (void)state;
    assert_default_disk(&config->disks[0]);
    config_free(config);
}

static const char everything[] =
    "[gateway]\nworkers = 3\nallow-uri = yes\nlock = /run/x y/lock\ndomid = 32751\n"
    "connect-timeout = 5\nlog-level = debug\n"
    "queues = 3\nring-page-order = 2\nindirect-segments = 0\nkeep = /keep me\nmemory = 1536K\n"
    "[disk a.B_1-]\nexport = nbds+unix:///n?socket=/s\nread-only = on\naccept-volatile = TRUE\n"
    "shared = 1\nworker = 2\ntls-psk-file = /k=1:2;3\ntls-username = me@here\n"
    "export = nbds://h2/n\nexport = nbds://h1/n\npaths = same-server\nconnections = 16\n"
    "on-loss = hold 90s\non-error = retry\ncommand-timeout = 2m\ndrains = yes\n"
    "fence-time = 1500ms\nfence = /bin/end it  --now\t-x=1:2 ; no more\n"
    "[disk c]\nexport = nbds://h/c\ntls-certificates = /pki\ncoherent = yes\non-loss = Hold\n";

static void assert_everything(const struct config *config)
{
    const struct config_disk *disk = config_disk_find(config, "a.B_1-");

    assert_int_equal(config->workers, 3);
    assert_true(config->allow_uri);
    assert_string_equal(config->lock_path, "/run/x y/lock");
    assert_int_equal(config->domid, 32751);
    assert_int_equal(config->connect_timeout_ms, 5000);
    assert_int_equal(config->queues, 3);
    assert_int_equal(config->ring_page_order, 2);
    assert_int_equal(config->indirect_segments, 0);
    assert_int_equal(config->log_level, LOG_LEVEL_DEBUG);
    assert_string_equal(config->keep_dir, "/keep me");
    assert_int_equal(config->memory_bytes, 1536 << 10);
    assert_int_equal(config->disk_count, 2);
    assert_non_null(disk);
    assert_int_equal(disk->export_count, 3);
    assert_string_equal(config_disk_uri(disk), "nbds+unix:///n?socket=/s");
    assert_string_equal(disk->export_uris[1], "nbds://h2/n");
    assert_string_equal(disk->export_uris[2], "nbds://h1/n");
    assert_true(disk->same_server && disk->drains && disk->retry_errors);
    assert_false(disk->coherent);
    assert_int_equal(disk->connections, 16);
    assert_int_equal(disk->hold_ms, 90000);
    assert_int_equal(disk->command_timeout_ms, 120000);
    assert_int_equal(disk->fence_time_ms, 1500);
    assert_string_equal(disk->fence[0], "/bin/end");
    assert_string_equal(disk->fence[1], "it");
    assert_string_equal(disk->fence[2], "--now");
    assert_string_equal(disk->fence[3], "-x=1:2");
    assert_null(disk->fence[4]);
    assert_true(disk->readonly && disk->accept_volatile && disk->shared);
    assert_int_equal(disk->worker, 2);
    assert_string_equal(disk->tls_psk_file, "/k=1:2;3");
    assert_string_equal(disk->tls_username, "me@here");
    assert_null(disk->tls_certificates);
    disk = config_disk_find(config, "c");
    assert_non_null(disk);
    assert_string_equal(disk->tls_certificates, "/pki");
    assert_true(disk->coherent);
    assert_false(disk->same_server || disk->drains || disk->retry_errors);
    assert_int_equal(disk->hold_ms, 0);
    assert_null(disk->fence);
    assert_false(disk->readonly || disk->accept_volatile || disk->shared);
    assert_int_equal(disk->worker, -1);
    assert_null(disk->tls_psk_file);
    assert_null(disk->tls_username);
}

static void test_everything(void **state)
{
    struct config *config = load(everything);

    (void)state;
    assert_everything(config);
    config_free(config);
}

static char *print(const struct config *config)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);

    assert_non_null(out);
    config_print(config, out);
    assert_int_equal(fclose(out), 0);
    return text;
}

/* A time or size as it may be written, what it is, and how it is printed. */
static void test_units(void **state)
{
    static const struct {
        const char *text;
        uint64_t number;
        const char *printed;
    } cases[] = {
        {"connect-timeout = 1", 1000, "1s"},
        {"connect-timeout = 1s", 1000, "1s"},
        {"connect-timeout = 1001ms", 1001, "1001ms"},
        {"connect-timeout = 8000ms", 8000, "8s"},
        {"connect-timeout = 0008", 8000, "8s"},
        {"memory = 1M", 1 << 20, "1M"},
        {"memory = 1048577", (1 << 20) + 1, "1048577"},
        {"memory = 1025K", 1025 << 10, "1025K"},
        {"memory = 2048M", 2ULL << 30, "2G"},
        {"memory = 1T", 1ULL << 40, "1T"},
        {"memory = 1099511627776", 1ULL << 40, "1T"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        const size_t key_length = strcspn(cases[i].text, "=");
        const bool is_time = cases[i].text[0] == 'c';
        struct config *config = NULL;
        char text[64];
        char *printed = NULL;

        snprintf(text, sizeof(text), "[gateway]\n%s\n", cases[i].text);
        config = load(text);
        printed = print(config);
        snprintf(text, sizeof(text), "\n%.*s= %s\n", (int)key_length, cases[i].text,
                 cases[i].printed);
        if ((is_time ? config->connect_timeout_ms : config->memory_bytes) != cases[i].number ||
            !strstr(printed, text))
            fail_msg("%s is taken for\n%s", cases[i].text, printed);
        config_free(config);
        free(printed);
    }
}

static void test_longest_times(void **state)
{
    struct config *config =
        load(DISK "on-loss = hold 24h\ncommand-timeout = 1h\nfence-time = 3600\n");

    (void)state;
    assert_int_equal(config->disks[0].hold_ms, LIMIT_HOLD_MS);
    assert_int_equal(config->disks[0].command_timeout_ms, LIMIT_COMMAND_TIMEOUT_MS);
    assert_int_equal(config->disks[0].fence_time_ms, LIMIT_FENCE_TIME_MS);
    config_free(config);
}

static void test_print_reads_back(void **state)
{
    static const char *const texts[] = {"", everything, "[disk x]\nexport=nbd://h\nread-only=0\n"};

    (void)state;
    for (size_t i = 0; i < COUNT(texts); i++) {
        struct config *config = load(texts[i]);
        char *first = print(config);
        struct config *again = load(first);
        char *second = print(again);

        assert_string_equal(first, second);
        if (texts[i] == everything)
            assert_everything(again);
        config_free(config);
        config_free(again);
        free(first);
        free(second);
    }
}

static void test_shapes_of_text(void **state)
{
    static const char *const texts[] = {
        "[disk a]\nexport = nbd://host/a",                      /* no line feed at the end */
        "[disk a]\r\nexport = nbd://host/a\r\n",                /* from Windows */
        "\xef\xbb\xbf[disk a]\nexport = nbd://host/a\n",        /* with its byte order mark */
        "[disk a]\n    export = nbd://host/a\n",                /* no continuation of anything */
        "[disk a]\nshared = no\n\texport = nbd://host/a\n",     /* nor here */
        "  [ disk\ta ]  ; words ]\nexport = nbd://host/a\n",    /* blanks in a header */
        "[disk a] # words\nexport: nbd://host/a\n",             /* as Python writes them */
        "# \xc3\xbc\n;\n\n[disk a]\nexport=nbd://host/a ; w\n", /* comments */
        "[disk b]\nexport = nbd://host/a\n[disk a]\nexport = nbd://host/a\n", /* one URI twice */
    };

    (void)state;
    for (size_t i = 0; i < COUNT(texts); i++) {
        struct config *config = load(texts[i]);
        const struct config_disk *disk = config_disk_find(config, "a");

        assert_non_null(disk);
        assert_string_equal(config_disk_uri(disk), "nbd://host/a");
        config_free(config);
    }
}

static void test_long_comment(void **state)
{
    static char text[40000];
    struct config *config = NULL;

    (void)state;
    memset(text, '#', sizeof(text) - sizeof(DISK) - 1);
    strcat(text, "\n" DISK);
    config = load(text);
    assert_int_equal(config->disk_count, 1);
    config_free(config);
}

/* -- what is not --------------------------------------------------------------------------- */

static const struct {
    const char *text;
    unsigned line;
    const char *complaint; /* a part of it */
} mistakes[] = {
    /* lines */
    {"[gateway]\nworkers 3\n", 2, "\"workers 3\" is not understood: write KEY = VALUE"},
    {"workers = 3\n", 1, "before the first section: write [gateway]"},
    {"[gateway\nworkers = 3\n", 1, "without ]"},
    {"[gateway] workers = 3\n", 1, "on a line of its own"},
    {"\n\x01\n", 2, "byte 0x01 is not text"},
    {"[gateway]\rworkers = 3\n", 1, "byte 0x0d is not text"},
    /* sections */
    {"[gateways]\nx = 3\n", 1, "unknown section [gateways]: write [gateway] or [disk NAME]"},
    {"[]\n", 1, "unknown section []"},
    {"[diskette a]\n", 1, "unknown section"},
    {DISK "[gateway]\n\n[gateway]\n", 5, "[gateway] again, first in line 3"},
    {"[disk]\nexport = nbd://h/a\n", 1, "without a name: write [disk NAME]"},
    {"[disk a/b]\nexport = nbd://h/a\n", 1, "made of letters"},
    {"[disk a b]\nexport = nbd://h/a\n", 1, "made of letters"},
    {DISK "\n" DISK, 4, "[disk a] again, first in line 1: give one of them another name"},
    {"[disk aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeee]\nexport = nbd://h/a\n", 1,
     "name is longer than"},
    {"[disk a]\nread-only = yes\n[gateway]\n", 1, "has no export: add export = nbd://HOST/EXPORT"},
    /* keys */
    {"[gateway]\nworker = 3\n", 2,
     "worker does not belong here: write it in a section [disk NAME]"},
    {DISK "lock = /x\n", 3, "lock does not belong here: write it in a section [gateway]"},
    {DISK "readonly = yes\n", 3, "unknown key \"readonly\": did you mean read-only?"},
    {DISK "Export = yes\n", 3, "did you mean export?"},
    {DISK "color = red\n", 3, "\"color\": write one of export, paths, coherent, connections"},
    {DISK "= red\n", 3, "unknown key \"\""},
    {DISK "worker = 0\nworker = 0\n", 4, "worker is given again, first in line 3"},
    {DISK "memory = 1M\n", 3, "memory does not belong here: write it in a section [gateway]"},
    {"[gateway]\nfence = /x\n", 2, "fence does not belong here"},
    {DISK "fencetime = 3s\n", 3, "did you mean fence-time?"},
    {"[gateway]\ndomid = 1\n# x\ndomid = 1\n", 4, "domid is given again, first in line 2"},
    /* values */
    {DISK "read-only = maybe\n", 3, "read-only = maybe: write yes or no"},
    {DISK "read-only =\n", 3, "read-only has no value: write yes or no"},
    {DISK "read-only = ; yes\n", 3, "read-only has no value"},
    {DISK "read-only = yes # no\n", 3, "a comment after a value starts with ;"},
    {"[gateway]\nworkers = 0\n", 2, "workers = 0: write a number from 1 to 64"},
    {"[gateway]\nworkers = 65\n", 2, "from 1 to 64"},
    {"[gateway]\nworkers = 0x2\n", 2, "from 1 to 64"},
    {"[gateway]\nworkers = +2\n", 2, "from 1 to 64"},
    {"[gateway]\nworkers = 2 3\n", 2, "from 1 to 64"},
    {"[gateway]\nworkers = 99999999999999999999\n", 2, "from 1 to 64"},
    {"[gateway]\ndomid = 32752\n", 2, "from 0 to 32751"},
    {"[gateway]\nconnect-timeout = 9\n", 2,
     "write a time from 1s to 8s, as in 500ms, 30s (or 30), 2m"},
    {"[gateway]\nqueues = 0\n", 2, "from 1 to 16"},
    {"[gateway]\nring-page-order = 5\n", 2, "from 0 to 4"},
    {"[gateway]\nindirect-segments = 257\n", 2, "from 0 to 256"},
    {"[gateway]\nconnect-timeout = 2 s\n", 2, "from 1s to 8s"},
    {"[gateway]\nconnect-timeout = 2S\n", 2, "from 1s to 8s"},
    {"[gateway]\nconnect-timeout = 1.5s\n", 2, "from 1s to 8s"},
    {"[gateway]\nconnect-timeout = s\n", 2, "from 1s to 8s"},
    {"[gateway]\nconnect-timeout = 999ms\n", 2, "from 1s to 8s"},
    {"[gateway]\nconnect-timeout = 8001ms\n", 2, "from 1s to 8s"},
    {"[gateway]\nconnect-timeout = 999999999999999h\n", 2, "from 1s to 8s"},
    {"[gateway]\nmemory = 512\n", 2, "write a size from 1M to 1T, as in 512M"},
    {"[gateway]\nmemory = 1023K\n", 2, "from 1M to 1T"},
    {"[gateway]\nmemory = 1025G\n", 2, "from 1M to 1T"},
    {"[gateway]\nmemory = 512MiB\n", 2, "from 1M to 1T"},
    {"[gateway]\nmemory = 512m\n", 2, "from 1M to 1T"},
    {"[gateway]\nmemory = 8388608T\n", 2, "from 1M to 1T"},  /* 2^63 */
    {"[gateway]\nmemory = 16777217T\n", 2, "from 1M to 1T"}, /* 1T and 2^64 */
    {"[gateway]\nmemory = 18446744073710600192\n", 2, "from 1M to 1T"},
    {"[gateway]\nkeep = keep\n", 2, "write an absolute path"},
    {DISK "command-timeout = 0\n", 3, "from 1s to 1h"},
    {DISK "command-timeout = 3601\n", 3, "from 1s to 1h"},
    {DISK "fence-time = 99ms\n", 3, "from 100ms to 1h"},
    {DISK "fence-time = 61m\n", 3, "from 100ms to 1h"},
    {DISK "connections = 0\n", 3, "write a number from 1 to 16"},
    {DISK "connections = 17\n", 3, "write a number from 1 to 16"},
    {DISK "on-loss = close\n", 3, "write hold, or hold and a time from 1s to 24h, as in hold 30s"},
    {DISK "on-loss = hold 0\n", 3, "from 1s to 24h"},
    {DISK "on-loss = hold 25h\n", 3, "from 1s to 24h"},
    {DISK "on-loss = hold30s\n", 3, "write hold, or"},
    {DISK "on-loss = 30s\n", 3, "write hold, or"},
    {DISK "on-loss =\n", 3, "on-loss has no value: write hold, or"},
    {DISK "on-error = ignore\n", 3, "write report or retry"},
    {DISK "drains = 2\n", 3, "write yes or no"},
    {DISK "fence = stop-it\n", 3, "write a program's absolute path, and its arguments if any"},
    {DISK "fence =\n", 3, "fence has no value: write a program's absolute path"},
    {DISK "fence = /bin/sh -c 'stop it'\n", 3, "no shell looks at quotes"},
    {DISK "fence = /bin/x a\\ b\n", 3, "no shell looks at quotes"},
    {DISK "fence = /x 2 3 4 5 6 7 8 9 10 1 2 3 4 5 6 7 8 9 20 1 2 3 4 5 6 7 8 9 30 1 2 3\n", 3,
     "33 words, and 32 is the most: write a script"},
    {DISK "fence = /x # why\n", 3, "a comment after a value starts with ;"},
    /* paths */
    {TWO, 3, "a second export for [disk a]: add paths = same-server if they are addresses of"},
    {TWO "coherent = no\n", 3, "would write old data back later"},
    {TWO "paths = coherent\n", 4, "paths = coherent: write same-server"},
    {TWO "paths = same-server\ncoherent = yes\n", 5, "keep the one that is true"},
    {DISK "coherent = yes\npaths = same-server\n", 4, "keep the one that is true"},
    {TWO "coherent = yes\nexport = nbd://HOST:10809/a\n", 5, "the same export as in line 2"},
    {"[disk a]\nexport = nbd://1/a\nexport = nbd://2/a\nexport = nbd://3/a\nexport = nbd://4/a\n"
     "export = nbd://5/a\nexport = nbd://6/a\nexport = nbd://7/a\nexport = nbd://8/a\n"
     "export = nbd://9/a\ncoherent = yes\n",
     10, "more than 8 exports for one disk: leave this one out"},
    {DISKS "export = nbd://other/a\ncoherent = yes\n", 3,
     "the export in line 2 is encrypted and this one is not"},
    {DISK "export = nbds://other/a\ncoherent = yes\ntls-psk-file = /k\n", 2,
     "the export in line 3 is encrypted and this one is not"},
    {TWO "coherent = yes\ntls-psk-file = /k\n", 5, "export in line 2 is not encrypted"},
    {"[gateway]\nlog-level = loud\n", 2, "write error, warning, info or debug"},
    {"[gateway]\nlock = lock\n", 2, "write an absolute path"},
    {DISKS "tls-psk-file = k\n", 3, "write an absolute path"},
    {DISKS "tls-psk-file = /k\ntls-username = a b\n", 4, "write letters"},
    {"[gateway]\nworkers = 2\n" DISK "worker = 2\n", 5,
     "line 2 says workers = 2: write a number from 0 to 1"},
    {DISK "worker = 63\n", 3, "write a number from 0 to"},
    {DISK "worker = 64\n", 3, "worker = 64: write a number from 0 to 63"},
    {"[disk a]\nexport = http://h/a\n", 2, "not an NBD URI: write nbd://HOST"},
    {"[disk a]\nexport =\n", 2, "export has no value"},
    {DISK "tls-psk-file = /k\n", 3, "export in line 2 is not encrypted: write nbds://"},
    {DISK "tls-certificates = /k\n", 3, "not encrypted"},
    {DISKS "tls-certificates = /k\ntls-psk-file = /k\n", 4, "keep the one its server uses"},
    {DISKS "tls-username = me\n", 3, "tls-username without tls-psk-file"},
};

static void test_mistakes(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(mistakes); i++) {
        struct complaints complaints;
        struct config *config = NULL;
        char start[128];

        if (load_bytes(mistakes[i].text, strlen(mistakes[i].text), &complaints, &config) != -EINVAL)
            fail_msg("accepted: %s", mistakes[i].text);
        assert_null(config);
        snprintf(start, sizeof(start), "%s:%u: ", file, mistakes[i].line);
        if (complaints.count != 1 || strncmp(complaints.text, start, strlen(start)) != 0 ||
            !strstr(complaints.text, mistakes[i].complaint))
            fail_msg("%s\nis answered with\n%snot with %s...%s", mistakes[i].text, complaints.text,
                     start, mistakes[i].complaint);
    }
}

static void test_all_mistakes_in_one_run(void **state)
{
    static const char text[] = "[gateway]\n"
                               "workers = many\n"
                               "what is this\n"
                               "[disk a/b]\n"
                               "shared = perhaps\n"
                               "[disk c]\n"
                               "export = nbd:///\n"
                               "worker = 70\n"
                               "[cdrom]\n"
                               "export = x\n" /* whose rule? not one more mistake */
                               "[disk d]\n";
    static const unsigned lines[] = {2, 3, 4, 5, 4, 7, 8, 9, 11};
    struct complaints complaints;
    struct config *config = NULL;
    const char *at = complaints.text;

    (void)state;
    assert_int_equal(load_bytes(text, strlen(text), &complaints, &config), -EINVAL);
    for (size_t i = 0; i < COUNT(lines); i++) {
        char start[128];

        snprintf(start, sizeof(start), "%s:%u: ", file, lines[i]);
        if (strncmp(at, start, strlen(start)) != 0)
            fail_msg("complaint %zu is not of line %u:\n%s", i + 1, lines[i], complaints.text);
        at = strchr(at, '\n') + 1;
    }
    assert_int_equal(complaints.count, COUNT(lines));
}

static void test_long_lines(void **state)
{
    static char text[3 * LIMIT_CONFIG_LINE_BYTES];
    struct complaints complaints;
    struct config *config = NULL;

    (void)state;
    /* The longest export name there is, all of it percent-encoded. */
    strcpy(text, "[disk a]\nexport = nbd://host/");
    for (unsigned i = 0; i < LIMIT_EXPORT_NAME_BYTES; i++)
        strcat(text, "%41");
    config = load(text);
    assert_int_equal(strlen(config_disk_uri(&config->disks[0])), 11 + 3 * LIMIT_EXPORT_NAME_BYTES);
    config_free(config);
    config = NULL;

    strcat(text, "A");
    assert_int_equal(load_bytes(text, strlen(text), &complaints, &config), -EINVAL);
    assert_non_null(strstr(complaints.text, ":2: export = "));
    assert_non_null(strstr(complaints.text, "name has 4097 bytes and NBD's limit is 4096"));

    for (unsigned i = 0; i < 2; i++) { /* a long value, a long header */
        strcpy(text, i == 0 ? "[gateway]\nlock = /" : "\n[disk ");
        memset(text + strlen(text), 'a', LIMIT_CONFIG_LINE_BYTES);
        strcat(text, i == 0 ? "\n" : "]\nexport = nbd://h/x\n");
        assert_int_equal(load_bytes(text, strlen(text), &complaints, &config), -EINVAL);
        assert_int_equal(complaints.count, 1);
        assert_non_null(strstr(complaints.text, ":2: the line is longer than"));
        memset(text, 0, sizeof(text));
    }
    assert_null(config);
}

static void test_files_that_are_none(void **state)
{
    static char big[LIMIT_CONFIG_BYTES + 1];
    static const char nul[] = "[gateway]\nworkers = \0 2\n";
    static const char utf16[] = "\xff\xfe[\0g\0";
    struct complaints complaints = {0};
    struct config *config = NULL;

    (void)state;
    assert_int_equal(config_load(directory, complain, &complaints, &config), -EISDIR);
    assert_non_null(strstr(complaints.text, "cannot be read: Is a directory"));
    complaints.text[0] = '\0';
    assert_int_equal(config_load("/nowhere/x.conf", complain, &complaints, &config), -ENOENT);
    assert_string_equal(complaints.text,
                        "/nowhere/x.conf: cannot be read: No such file or directory\n");
    assert_int_equal(complaints.count, 2);

    memset(big, '\n', sizeof(big));
    assert_int_equal(load_bytes(big, sizeof(big), &complaints, &config), -EFBIG);
    assert_int_equal(complaints.count, 1);
    assert_int_equal(load_bytes(nul, sizeof(nul) - 1, &complaints, &config), -EINVAL);
    assert_non_null(strstr(complaints.text, ":2: byte 0x00 is not text"));
    assert_int_equal(load_bytes(utf16, sizeof(utf16) - 1, &complaints, &config), -EINVAL);
    assert_int_equal(complaints.count, 1);
    assert_null(config);
}

static void test_too_many_disks(void **state)
{
    char *text = malloc(LIMIT_DISKS * 64);
    size_t used = 0;
    struct complaints complaints;
    struct config *config = NULL;

    (void)state;
    assert_non_null(text);
    for (unsigned i = 0; i <= LIMIT_DISKS; i++) {
        if (i == LIMIT_DISKS) {
            config = load(text);
            assert_int_equal(config->disk_count, LIMIT_DISKS);
            config_free(config);
            config = NULL;
        }
        used += (size_t)sprintf(text + used, "[disk d%u]\nexport = nbd://host/x\n", i);
    }
    assert_int_equal(load_bytes(text, used, &complaints, &config), -EINVAL);
    assert_int_equal(complaints.count, 1);
    assert_non_null(strstr(complaints.text, ":8193: more than 4096 disks"));
    free(text);
}

/* -- the sample ---------------------------------------------------------------------------- */

static void test_sample(void **state)
{
    char *text = sample();
    struct config *config = load(text);

    (void)state;
    assert_int_equal(config->disk_count, 0);
    config_free(config);
    free(text);

    text = sample_in_effect();
    config = load(text);
    assert_int_equal(config->disk_count, 6);
    assert_int_equal(config->connect_timeout_ms, LIMIT_CONNECT_MS);
    assert_true(config_disk_find(config, "install")->readonly);
    assert_string_equal(config_disk_find(config, "secret")->tls_username, "xenhost1");
    assert_string_equal(config_disk_find(config, "certified")->tls_certificates,
                        "/etc/pki/blkgate");
    assert_int_equal(config_disk_find(config, "cluster")->export_count, 2);
    assert_true(config_disk_find(config, "cluster")->coherent);
    assert_true(config_disk_find(config, "multipath")->same_server);
    config_free(config);
    free(text);
}

/* No key that the sample and the manual do not explain. */
static void test_every_key_is_described(void **state)
{
    char *texts[] = {sample(), source("etc/blkgate.conf.5")};

    (void)state;
    for (size_t i = 0; i < GATEWAY_KEYS + DISK_KEYS; i++) {
        const struct key *key =
            i < GATEWAY_KEYS ? &config_gateway_keys[i] : &config_disk_keys[i - GATEWAY_KEYS];
        const char *const heads[] = {"\n# ", "\n.It Cm "};

        for (size_t j = 0; j < COUNT(texts); j++) {
            char line[64];

            snprintf(line, sizeof(line), "%s%s = ", heads[j], key->name);
            if (!strstr(texts[j], line))
                fail_msg("%s is not in the %s", key->name, j ? "manual" : "sample");
        }
    }
    free(texts[0]);
    free(texts[1]);
}

/* xorshift: the same bytes in every run. */
static uint32_t random_next(uint32_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    *seed ^= *seed << 5;
    return *seed;
}

/* Either a configuration that prints and reads back, or complaints: never both, never neither. */
static void load_anything(const char *bytes, size_t length)
{
    struct complaints complaints;
    struct config *config = NULL;
    const int error = load_bytes(bytes, length, &complaints, &config);

    if (error < 0) {
        assert_int_equal(error, -EINVAL);
        assert_true(complaints.count > 0);
        assert_null(config);
        return;
    }
    assert_int_equal(complaints.count, 0);
    {
        char *first = print(config);
        struct config *again = load(first);
        char *second = print(again);

        assert_string_equal(first, second);
        free(first);
        free(second);
        config_free(again);
        config_free(config);
    }
}

static void test_junk(void **state)
{
    static const char signs[] = "[]=:;# \n\tdiskgateway\xef\xbb\xbf"; /* and its NUL */
    uint32_t seed = 20051117;
    char bytes[512];

    (void)state;
    for (unsigned round = 0; round < 2000; round++) {
        const size_t length = random_next(&seed) % sizeof(bytes);

        for (size_t i = 0; i < length; i++)
            bytes[i] = round % 2 ? (char)random_next(&seed)
                                 : signs[random_next(&seed) % (sizeof(signs) - round / 2 % 2)];
        load_anything(bytes, length);
    }
}

static void test_mutations(void **state)
{
    char *text = sample_in_effect();
    const size_t length = strlen(text);
    char *mutant = malloc(2 * length);
    uint32_t seed = 4711;

    (void)state;
    assert_non_null(mutant);
    for (unsigned round = 0; round < 4000; round++) {
        size_t bytes = length;

        memcpy(mutant, text, length);
        for (unsigned change = random_next(&seed) % 3; change < 3; change++) {
            const size_t at = random_next(&seed) % bytes;
            const size_t count = random_next(&seed) % (bytes - at) % 40;

            switch (random_next(&seed) % 4) {
            case 0: mutant[at] = (char)random_next(&seed); break;
            case 1: mutant[at] = "\n =;[]:%?/"[random_next(&seed) % 10]; break;
            case 2: /* a piece is lost */
                memmove(mutant + at, mutant + at + count, bytes - at - count);
                bytes -= count;
                break;
            default: /* a piece stands where another was */
                memmove(mutant + random_next(&seed) % (bytes - count), mutant + at, count);
            }
        }
        load_anything(mutant, bytes);
    }
    free(mutant);
    free(text);
}

/* -- URIs ---------------------------------------------------------------------------------- */

static const char *const good_uris[] = {
    "nbd://host",
    "nbd://host/",
    "nbd://host/export",
    "nbd://host:1/a/b//c",
    "nbds://192.0.2.1:65535/x",
    "nbd://[2001:db8::1]/x",
    "nbd://[::1]:10809/x",
    "nbd://a_b.example.org./%C3%BC%20a",
    "nbd+unix:///?socket=/run/nbd.sock",
    "nbds+unix:///a%2Fb?socket=/run/a%20b%26c.sock",
    "nbd+unix:////abs?socket=/s&",
    "nbd://host/a;b,c=d&e",
};

static const struct {
    const char *uri;
    const char *reason; /* a part of it */
} bad_uris[] = {
    {"", "not an NBD URI: write nbd://HOST[:PORT]/EXPORT"},
    {"root", "not an NBD URI"},
    {"nbd:host:10809", "not an NBD URI"},
    {"nbd:/host", "not an NBD URI"},
    {"NBD://host/x", "not an NBD URI"},
    {"nbd+vsock://2/x", "not an NBD URI"},
    {"nbd+ssh://host/x", "not an NBD URI"},
    {" nbd://host/x", "byte 0x20 at position 1: write it as %20"},
    {"nbd://host/\n", "byte 0x0a"},
    {"nbd://host/\xc3\xbc", "byte 0xc3 at position 12: write it as %C3"},
    {"nbd://host/a#b", "character # at position 13: write it as %23"},
    {"nbd://host/%4", "without two hexadecimal digits"},
    {"nbd://host/%", "without two hexadecimal digits"},
    {"nbd://host/%0g", "without two hexadecimal digits"},
    {"nbd://host/%00", "control character %00"},
    {"nbd://host/a%0ab", "export's name holds the control character %0A"},
    {"nbd://host/%7f", "control character %7F"},
    {"nbd://", "host is missing"},
    {"nbd:///x", "host is missing: write nbd://HOST/EXPORT, or nbd+unix"},
    {"nbd://:10809/x", "host is missing"},
    {"nbd://ho%20st/x", "host holds %"},
    {"nbd://me@host/x", "tls-username"},
    {"nbd://host:/x", "from 1 to 65535"},
    {"nbd://host:0/x", "from 1 to 65535"},
    {"nbd://host:65536/x", "from 1 to 65535"},
    {"nbd://host:100000000000/x", "from 1 to 65535"},
    {"nbd://host:1a/x", "from 1 to 65535"},
    {"nbd://2001:db8::1/x", "needs brackets"},
    {"nbd://[2001:db8::1/x", "[ without ]"},
    {"nbd://[]/x", "no IPv6 address"},
    {"nbd://[192.0.2.1]/x", "no IPv6 address"},
    {"nbd://[fe80::1%25eth0]/x", "no IPv6 address"},
    {"nbd://[::1]x/x", "\"x\" after the host"},
    {"nbd://[::1]:/x", "from 1 to 65535"},
    {"nbd://host/x?", "nothing may follow a ?"},
    {"nbd://host/x?socket=/s", "socket= needs nbd+unix:///"},
    {"nbds://host/x?tls-psk-file=/k", "tls- keys"},
    {"nbd+unix://host/x?socket=/s", "three slashes"},
    {"nbd+unix://?socket=/s", "three slashes"},
    {"nbd+unix:///x", "socket is missing"},
    {"nbd+unix:///x?", "socket is missing"},
    {"nbd+unix:///x?socket", "unknown parameter \"socket\""},
    {"nbd+unix:///x?socket=", "not absolute"},
    {"nbd+unix:///x?socket=s", "not absolute: write socket=/PATH"},
    {"nbd+unix:///x?socket=/s&socket=/s", "given twice"},
    {"nbd+unix:///x?socket=/s;x=1", "unknown parameter \"x=1\": only socket=/PATH"},
    {"nbd+unix:///x?&socket=/s", "unknown parameter \"\""},
    {"nbds+unix:///x?socket=/s&tls-certificates=/k", "keys tls-certificates, tls-psk-file"},
    {"nbd+unix:///x?socket=/%00", "socket's path holds the control character %00"},
};

static void test_uris(void **state)
{
    char reason[LIMIT_REASON_BYTES];

    (void)state;
    for (size_t i = 0; i < COUNT(good_uris); i++)
        if (config_uri_check(good_uris[i], reason, sizeof(reason)) != 0)
            fail_msg("%s is refused: %s", good_uris[i], reason);
    for (size_t i = 0; i < COUNT(bad_uris); i++) {
        if (config_uri_check(bad_uris[i].uri, reason, sizeof(reason)) != -EINVAL)
            fail_msg("%s is accepted", bad_uris[i].uri);
        if (!strstr(reason, bad_uris[i].reason))
            fail_msg("%s: %s\nand not: %s", bad_uris[i].uri, reason, bad_uris[i].reason);
        if (strlen(reason) == sizeof(reason) - 1)
            fail_msg("%s: the reason was cut: %s", bad_uris[i].uri, reason);
    }
}

static void test_uri_bounds(void **state)
{
    char reason[LIMIT_REASON_BYTES];
    char uri[512];
    char tiny[4];

    (void)state;
    for (int length = 106; length <= 109; length++) { /* sun_path takes 107 and a NUL */
        snprintf(uri, sizeof(uri), "nbd+unix:///x?socket=/%0*d", length - 1, 0);
        assert_int_equal(config_uri_check(uri, reason, sizeof(reason)),
                         length <= 107 ? 0 : -EINVAL);
        if (length > 107)
            assert_non_null(strstr(reason, "at most 107"));
    }
    for (int length = 253; length <= 254; length++) {
        snprintf(uri, sizeof(uri), "nbd://%0*d/x", length, 0);
        assert_int_equal(config_uri_check(uri, reason, sizeof(reason)),
                         length <= 253 ? 0 : -EINVAL);
    }
    assert_int_equal(config_uri_check("nbd:///", tiny, sizeof(tiny)), -EINVAL);
    assert_string_equal(tiny, "the");
    assert_int_equal(config_uri_check("nbd:///", NULL, 0), -EINVAL);
}

static void test_disk_from_uri(void **state)
{
    struct config_disk *disk = NULL;

    (void)state;
    assert_int_equal(config_disk_from_uri("nbd:///x", &disk), -EINVAL);
    assert_null(disk);
    assert_int_equal(config_disk_from_uri("nbds://host/x", &disk), 0);
    assert_string_equal(disk->name, "nbds://host/x");
    assert_string_equal(config_disk_uri(disk), "nbds://host/x");
    assert_default_disk(disk);
    config_disk_free(disk);
    config_disk_free(NULL);
}

static void test_identity(void **state)
{
    static const char *const same[][2] = {
        {"nbd://h/x", "nbd://H:10809/x"},
        {"nbd://h/x", "nbds://h/%78"},
        {"nbd://h", "nbd://h/"},
        {"nbd://[2001:db8::1]/x", "nbd://[2001:DB8:0::1]:10809/x"},
        {"nbd+unix:///x?socket=/a", "nbd+unix:///x?socket=%2Fa"},
    };
    static const char *const other[][2] = {
        {"nbd://h/x", "nbd://h/X"},
        {"nbd://h/x", "nbd://h:10810/x"},
        {"nbd://h/x", "nbd://h//x"},
        {"nbd://h/x", "nbd://hx/"},
        {"nbd://[2001:db8::1]/x", "nbd://[2001:db8::2]/x"},
        {"nbd+unix:///x?socket=/a", "nbd+unix:///x?socket=/b"},
        {"nbd+unix:///x?socket=/a", "nbd+unix:///y?socket=/a"},
        {"nbd://h/x", "junk"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++)
        if (config_uri_identity(same[i][0]) != config_uri_identity(same[i][1]))
            fail_msg("%s is %s", same[i][0], same[i][1]);
    for (size_t i = 0; i < sizeof(other) / sizeof(other[0]); i++)
        if (config_uri_identity(other[i][0]) == config_uri_identity(other[i][1]))
            fail_msg("%s is not %s", other[i][0], other[i][1]);
}

/* What is attached writable through one path must not be attached again through another one. */
static void test_disks_meet(void **state)
{
    struct config *config =
        load("[disk a]\nexport = nbd://x/1\nexport = nbd://y/1\ncoherent = yes\n"
             "[disk b]\nexport = nbds://z/1\nexport = nbds://Y:10809/1\ncoherent = yes\n"
             "[disk c]\nexport = nbd://z/1\n"
             "[disk d]\nexport = nbd://y/1\nexport = nbd://x/1\npaths = same-server\n");
    static const bool meet[4][4] = {{1, 1, 0, 1}, {1, 1, 1, 1}, {0, 1, 1, 0}, {1, 1, 0, 1}};
    const struct config_disk *disks = config->disks;

    (void)state;
    for (size_t i = 0; i < 4; i++)
        for (size_t j = 0; j < 4; j++)
            if (config_disks_meet(&disks[i], &disks[j]) != meet[i][j])
                fail_msg("%s and %s", disks[i].name, disks[j].name);
    assert_int_equal(config_disk_identity(&disks[0]), config_uri_identity("nbd://x/1"));
    assert_true(config_disk_reaches(&disks[3], config_disk_identity(&disks[0])));
    assert_false(config_disk_reaches(&disks[2], config_disk_identity(&disks[0])));
    config_free(config);
}

/* What QEMU 7.2 opens, as tried with qemu-img: a comma would end its option, and for nbds it has no
 * driver. */
static void test_for_qemu(void **state)
{
    static const char *const same[] = {"nbd://h", "nbd://[::1]:10810/x%20y",
                                       "nbd+unix:///?socket=/run/x.sock"};
    char uri[64];

    (void)state;
    for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++) {
        assert_int_equal(config_uri_for_qemu(same[i], uri, sizeof(uri)), 0);
        assert_string_equal(uri, same[i]);
    }
    assert_int_equal(config_uri_for_qemu("nbd+unix:///a,b?socket=/c,", uri, sizeof(uri)), 0);
    assert_string_equal(uri, "nbd+unix:///a%2Cb?socket=/c%2C");
    assert_int_equal(config_uri_for_qemu("nbds://h/x", uri, sizeof(uri)), -EINVAL);
    assert_int_equal(config_uri_for_qemu("nbds+unix:///?socket=/x", uri, sizeof(uri)), -EINVAL);
    assert_int_equal(config_uri_for_qemu("nbd://h,", uri, 10), -ENAMETOOLONG);
    assert_int_equal(config_uri_for_qemu("nbd://h,", uri, 11), 0);
}

static int make_directory(void **state)
{
    (void)state;
    if (!mkdtemp(directory))
        return -1;
    snprintf(file, sizeof(file), "%s/x.conf", directory);
    return 0;
}

static int remove_directory(void **state)
{
    (void)state;
    unlink(file);
    return rmdir(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_disk_defaults),
        cmocka_unit_test(test_everything),
        cmocka_unit_test(test_units),
        cmocka_unit_test(test_longest_times),
        cmocka_unit_test(test_print_reads_back),
        cmocka_unit_test(test_shapes_of_text),
        cmocka_unit_test(test_long_comment),
        cmocka_unit_test(test_mistakes),
        cmocka_unit_test(test_all_mistakes_in_one_run),
        cmocka_unit_test(test_long_lines),
        cmocka_unit_test(test_files_that_are_none),
        cmocka_unit_test(test_too_many_disks),
        cmocka_unit_test(test_sample),
        cmocka_unit_test(test_every_key_is_described),
        cmocka_unit_test(test_junk),
        cmocka_unit_test(test_mutations),
        cmocka_unit_test(test_uris),
        cmocka_unit_test(test_uri_bounds),
        cmocka_unit_test(test_identity),
        cmocka_unit_test(test_disks_meet),
        cmocka_unit_test(test_for_qemu),
        cmocka_unit_test(test_disk_from_uri),
    };

    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
