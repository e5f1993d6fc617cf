/* What the text of one value means: strict, for a guess about a time or a size would be found out
 * only when a server is lost. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/config_private.h"
#include "gateway/log.h"

enum { TEXT_BYTES = 100 };

static const char *const levels[] = {
    [LOG_LEVEL_ERROR] = "error", [LOG_LEVEL_WARNING] = "warning", [LOG_LEVEL_INFO] = "info",
    [LOG_LEVEL_DEBUG] = "debug", [LOG_LEVEL_DEBUG + 1] = NULL,
};
static const char *const path_kinds[] = {"same-server", NULL};
static const char *const on_errors[] = {"report", "retry", NULL};

const struct key config_gateway_keys[GATEWAY_KEYS] = {
    [GATEWAY_WORKERS] = {"workers", KEY_NUMBER, 1, LIMIT_WORKERS},
    [GATEWAY_ALLOW_URI] = {"allow-uri", KEY_BOOL},
    [GATEWAY_LOCK] = {"lock", KEY_PATH},
    [GATEWAY_KEEP] = {"keep", KEY_PATH},
    /* The least is a guard: `memory = 512` is a forgotten M. */
    [GATEWAY_MEMORY] = {"memory", KEY_SIZE, 1 << 20, (long long)LIMIT_MEMORY_MIB << 20},
    [GATEWAY_DOMID] = {"domid", KEY_NUMBER, 0, 0x7FEF}, /* above: Xen's special domains */
    [GATEWAY_CONNECT_TIMEOUT] = {"connect-timeout", KEY_TIME, 1000, LIMIT_CONNECT_MS},
    [GATEWAY_QUEUES] = {"queues", KEY_NUMBER, 1, LIMIT_QUEUES},
    [GATEWAY_RING_ORDER] = {"ring-page-order", KEY_NUMBER, 0, LIMIT_RING_ORDER},
    [GATEWAY_INDIRECT] = {"indirect-segments", KEY_NUMBER, 0, LIMIT_SEGMENTS},
    [GATEWAY_LOG_LEVEL] = {"log-level", KEY_WORD, .words = levels},
};

const struct key config_disk_keys[DISK_KEYS] = {
    [DISK_EXPORT] = {"export", KEY_URI},
    [DISK_PATHS] = {"paths", KEY_WORD, .words = path_kinds},
    [DISK_COHERENT] = {"coherent", KEY_BOOL},
    [DISK_CONNECTIONS] = {"connections", KEY_NUMBER, 1, LIMIT_CONNECTIONS},
    [DISK_ON_LOSS] = {"on-loss", KEY_HOLD, 1000, LIMIT_HOLD_MS},
    [DISK_ON_ERROR] = {"on-error", KEY_WORD, .words = on_errors},
    [DISK_COMMAND_TIMEOUT] = {"command-timeout", KEY_TIME, 1000, LIMIT_COMMAND_TIMEOUT_MS},
    [DISK_DRAINS] = {"drains", KEY_BOOL},
    [DISK_FENCE_TIME] = {"fence-time", KEY_TIME, 100, LIMIT_FENCE_TIME_MS},
    [DISK_FENCE] = {"fence", KEY_COMMAND},
    [DISK_READ_ONLY] = {"read-only", KEY_BOOL},
    [DISK_ACCEPT_VOLATILE] = {"accept-volatile", KEY_BOOL},
    [DISK_SHARED] = {"shared", KEY_BOOL},
    [DISK_WORKER] = {"worker", KEY_NUMBER, 0, LIMIT_WORKERS - 1},
    [DISK_TLS_CERTIFICATES] = {"tls-certificates", KEY_PATH},
    [DISK_TLS_PSK_FILE] = {"tls-psk-file", KEY_PATH},
    [DISK_TLS_USERNAME] = {"tls-username", KEY_NAME},
};

bool config_value_is_text(const struct key *key)
{
    return key->kind >= KEY_NAME;
}

/* -- numbers with a unit --------------------------------------------------------------------- */

struct unit {
    const char *sign;
    long long scale;
};

enum { UNITS = 5 };

static const struct unit times[UNITS] = {
    {"", 1000}, {"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}};
static const struct unit sizes[UNITS] = {
    {"", 1}, {"K", 1 << 10}, {"M", 1 << 20}, {"G", 1 << 30}, {"T", 1LL << 40}};
static const struct unit counts[UNITS] = {{"", 1}};

static const struct unit *units_of(const struct key *key)
{
    return key->kind == KEY_NUMBER ? counts : key->kind == KEY_SIZE ? sizes : times;
}

/* Digits and a unit, nothing else: strtoll would also take " +0x10". */
static int read_scaled(const struct key *key, const char *text, long long *ret_number)
{
    const struct unit *units = units_of(key);
    const size_t digits = strspn(text, "0123456789");
    long long number = 0;

    if (digits < 1 || digits > 15)
        return -EINVAL;
    number = strtoll(text, NULL, 10);
    for (size_t i = 0; i < UNITS && units[i].sign; i++) {
        if (strcmp(text + digits, units[i].sign) != 0)
            continue;
        if (number > key->max / units[i].scale || number * units[i].scale < key->min)
            return -ERANGE;
        *ret_number = number * units[i].scale;
        return 0;
    }
    return -EINVAL;
}

/* In the largest unit that loses nothing. */
static const char *show_scaled(const struct key *key, long long number,
                               char text[static TEXT_BYTES])
{
    const struct unit *units = units_of(key);
    const struct unit *best = &units[key->kind == KEY_NUMBER || key->kind == KEY_SIZE ? 0 : 1];

    for (size_t i = 1; i < UNITS && units[i].sign; i++)
        if (units[i].scale > best->scale && number % units[i].scale == 0)
            best = &units[i];
    snprintf(text, TEXT_BYTES, "%lld%s", number / best->scale, best->sign);
    return text;
}

/* hold, or hold and how long. */
static int read_hold(const struct key *key, const char *text, long long *ret_number)
{
    const char *rest = text + 4;

    if (strncasecmp(text, "hold", 4) != 0)
        return -EINVAL;
    if (*rest == '\0') {
        *ret_number = 0;
        return 0;
    }
    if (!strchr(" \t", *rest))
        return -EINVAL;
    return read_scaled(key, rest + strspn(rest, " \t"), ret_number);
}

/* -- words ----------------------------------------------------------------------------------- */

static int read_bool(const char *text, long long *ret_number)
{
    static const char *const words[2][4] = {{"no", "false", "off", "0"},
                                            {"yes", "true", "on", "1"}};

    for (long long number = 0; number < 2; number++) {
        for (size_t i = 0; i < 4; i++) {
            if (strcasecmp(text, words[number][i]) == 0) {
                *ret_number = number;
                return 0;
            }
        }
    }
    return -EINVAL;
}

static int read_word(const struct key *key, const char *text, long long *ret_number)
{
    for (size_t i = 0; key->words[i]; i++) {
        if (strcasecmp(text, key->words[i]) == 0) {
            *ret_number = (long long)i;
            return 0;
        }
    }
    return -EINVAL;
}

/* -- texts ----------------------------------------------------------------------------------- */

bool config_is_name(const char *text, const char *signs)
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

static int check_name(const char *text)
{
    return text[0] && strlen(text) <= 64 && config_is_name(text, "._-@+/") ? 0 : -EINVAL;
}

static int check_path(const char *text)
{
    return text[0] == '/' && strlen(text) < PATH_MAX ? 0 : -EINVAL;
}

/* No shell sees it. A quote or backslash would reach the program, and nobody means that. */
static int check_command(const char *text, char *ret_reason, size_t reason_bytes)
{
    unsigned words = 0;

    for (const char *at = text; *at; words++) {
        if (*at == '#')
            return -EINVAL; /* meant as a comment */
        at += strcspn(at, " \t");
        at += strspn(at, " \t");
    }
    if (text[strcspn(text, "\"'\\")]) {
        snprintf(ret_reason, reason_bytes,
                 "blanks part the words, and no shell looks at quotes or \\: write a script and "
                 "name it here");
        return -EALREADY;
    }
    if (words > LIMIT_FENCE_WORDS) {
        snprintf(ret_reason, reason_bytes, "%u words, and %d is the most: write a script", words,
                 LIMIT_FENCE_WORDS);
        return -EALREADY;
    }
    return text[0] == '/' && strcspn(text, " \t") < PATH_MAX ? 0 : -EINVAL;
}

/* -- one value --------------------------------------------------------------------------------- */

/* As in "error, warning, info or debug". */
static void list_words(const char *const *words, char *ret_text, size_t bytes)
{
    size_t used = 0;

    ret_text[0] = '\0';
    for (size_t i = 0; words[i] && used < bytes; i++)
        used += (size_t)snprintf(ret_text + used, bytes - used, "%s%s",
                                 i == 0         ? ""
                                 : words[i + 1] ? ", "
                                                : " or ",
                                 words[i]);
}

static void say_wanted(const struct key *key, char *ret_text, size_t bytes)
{
    char min[TEXT_BYTES];
    char max[TEXT_BYTES];
    char words[TEXT_BYTES];

    show_scaled(key, key->min, min);
    show_scaled(key, key->max, max);
    switch (key->kind) {
    case KEY_BOOL: snprintf(ret_text, bytes, "write yes or no"); break;
    case KEY_NUMBER: snprintf(ret_text, bytes, "write a number from %s to %s", min, max); break;
    case KEY_TIME:
        snprintf(ret_text, bytes, "write a time from %s to %s, as in 500ms, 30s (or 30), 2m", min,
                 max);
        break;
    case KEY_SIZE:
        snprintf(ret_text, bytes, "write a size from %s to %s, as in 512M", min, max);
        break;
    case KEY_HOLD:
        snprintf(ret_text, bytes, "write hold, or hold and a time from %s to %s, as in hold 30s",
                 min, max);
        break;
    case KEY_WORD:
        list_words(key->words, words, sizeof(words));
        snprintf(ret_text, bytes, "write %s", words);
        break;
    case KEY_NAME:
        snprintf(ret_text, bytes, "write letters, digits and any of . _ - @ + / (64 at most)");
        break;
    case KEY_PATH:
        snprintf(ret_text, bytes, "write an absolute path, as in /etc/blkgate/...");
        break;
    case KEY_URI: snprintf(ret_text, bytes, "write an NBD URI, as in nbd://HOST/EXPORT"); break;
    case KEY_COMMAND:
        snprintf(ret_text, bytes, "write a program's absolute path, and its arguments if any");
        break;
    }
}

int config_value_read(const struct key *key, const char *text, long long *ret_number,
                      char *ret_reason, size_t reason_bytes)
{
    int error = -EINVAL;

    switch (key->kind) {
    case KEY_BOOL: error = read_bool(text, ret_number); break;
    case KEY_NUMBER:
    case KEY_TIME:
    case KEY_SIZE: error = read_scaled(key, text, ret_number); break;
    case KEY_HOLD: error = read_hold(key, text, ret_number); break;
    case KEY_WORD: error = read_word(key, text, ret_number); break;
    case KEY_NAME: error = check_name(text); break;
    case KEY_PATH: error = check_path(text); break;
    case KEY_URI:
        if (text[0] && config_uri_check(text, ret_reason, reason_bytes) < 0)
            return -EINVAL; /* a better reason than ours */
        error = text[0] ? 0 : -EINVAL;
        break;
    case KEY_COMMAND:
        error = check_command(text, ret_reason, reason_bytes);
        if (error == -EALREADY)
            return -EINVAL;
        break;
    }
    if (error < 0) {
        say_wanted(key, ret_reason, reason_bytes);
        return -EINVAL;
    }
    return 0;
}

void config_value_print(const struct key *key, long long number, FILE *out)
{
    char text[TEXT_BYTES];

    switch (key->kind) {
    case KEY_BOOL: fprintf(out, "%s = %s\n", key->name, number ? "yes" : "no"); break;
    case KEY_WORD: fprintf(out, "%s = %s\n", key->name, key->words[number]); break;
    case KEY_HOLD:
        if (number == 0)
            fprintf(out, "%s = hold\n", key->name);
        else
            fprintf(out, "%s = hold %s\n", key->name, show_scaled(key, number, text));
        break;
    default: fprintf(out, "%s = %s\n", key->name, show_scaled(key, number, text));
    }
}
