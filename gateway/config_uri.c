/* The strict half of config: which NBD URIs blkgate takes. libnbd ignores what it does not know
 * and fills in what is missing; a disk must not hang on such guesses, least of all on one that
 * a toolstack named. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "gateway/config.h"
#include "proto/limits.h"

struct span {
    const char *text;
    size_t length;
};

struct reason {
    char *text;
    size_t bytes;
};

struct uri {
    bool is_unix;
    struct span authority;
    struct span path;
    struct span query; /* text NULL: no `?` */
};

static int refuse(const struct reason *reason, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static int refuse(const struct reason *reason, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(reason->text, reason->bytes, format, args);
    va_end(args);
    return -EINVAL;
}

static bool is_alnum(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

static int hex_digit(char c)
{
    static const char digits[] = "0123456789abcdef";
    const char lower = (char)(c >= 'A' && c <= 'F' ? c - 'A' + 'a' : c);
    const char *found = lower ? strchr(digits, lower) : NULL;

    return found ? (int)(found - digits) : -1;
}

/* What RFC 3986 leaves over; all else is percent-encoded. libnbd's parser refuses it as well, but
 * without a word about which character it was. */
static int check_characters(const char *uri, const struct reason *reason)
{
    for (const char *at = uri; *at; at++) {
        const unsigned char c = (unsigned char)*at;

        if (c <= 0x20 || c >= 0x7f)
            return refuse(reason, "byte 0x%02x at position %zu: write it as %%%02X", c,
                          (size_t)(at - uri) + 1, c);
        if (strchr("\"<>\\^`{|}#", c))
            return refuse(reason, "the character %c at position %zu: write it as %%%02X", c,
                          (size_t)(at - uri) + 1, c);
        if (c == '%' && (hex_digit(at[1]) < 0 || hex_digit(at[2]) < 0))
            return refuse(reason,
                          "%% at position %zu without two hexadecimal digits: write a percent "
                          "sign as %%25",
                          (size_t)(at - uri) + 1);
    }
    return 0;
}

/* Writes at most `bytes` decoded bytes, NUL-terminated, and returns how many there are. */
static int decode(struct span span, const char *what, char *out, size_t bytes, size_t *ret_length,
                  const struct reason *reason)
{
    size_t length = 0;

    for (size_t i = 0; i < span.length; i++) {
        unsigned char c = (unsigned char)span.text[i];

        if (c == '%') {
            c = (unsigned char)(hex_digit(span.text[i + 1]) * 16 + hex_digit(span.text[i + 2]));
            i += 2;
        }
        if (c < 0x20 || c == 0x7f)
            return refuse(reason, "%s holds the control character %%%02X: leave it out", what, c);
        if (length + 1 < bytes)
            out[length] = (char)c;
        length++;
    }
    if (bytes > 0)
        out[length < bytes ? length : bytes - 1] = '\0';
    *ret_length = length;
    return 0;
}

static int split(const char *uri, struct uri *ret_uri, const struct reason *reason)
{
    static const struct {
        const char *prefix;
        bool is_unix;
    } schemes[] = {
        {"nbd://", false}, {"nbds://", false}, {"nbd+unix://", true}, {"nbds+unix://", true}};

    for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++) {
        const size_t skip = strlen(schemes[i].prefix);
        const char *rest = uri + skip;

        if (strncmp(uri, schemes[i].prefix, skip) != 0)
            continue;
        ret_uri->is_unix = schemes[i].is_unix;
        ret_uri->authority = (struct span){rest, strcspn(rest, "/?")};
        rest += ret_uri->authority.length;
        ret_uri->path = (struct span){rest, strcspn(rest, "?")};
        rest += ret_uri->path.length;
        ret_uri->query = (struct span){NULL, 0};
        if (*rest == '?')
            ret_uri->query = (struct span){rest + 1, strlen(rest + 1)};
        return 0;
    }
    return refuse(reason, "not an NBD URI: write nbd://HOST[:PORT]/EXPORT, nbds://HOST/EXPORT, "
                          "nbd+unix:///EXPORT?socket=/PATH or nbds+unix:///EXPORT?socket=/PATH");
}

static int check_port(struct span span, const struct reason *reason)
{
    unsigned long port = 0;

    if (span.length == 0 || span.text[0] != ':')
        return refuse(reason, "\"%.*s\" after the host: only :PORT may follow it",
                      (int)(span.length < 32 ? span.length : 32), span.text);
    for (size_t i = 1; i < span.length; i++) {
        if (span.text[i] < '0' || span.text[i] > '9' || i > 5) {
            port = 0;
            break;
        }
        port = port * 10 + (unsigned long)(span.text[i] - '0');
    }
    if (port < 1 || port > 65535)
        return refuse(reason, "bad port: write a number from 1 to 65535, or leave :PORT out "
                              "for 10809");
    return 0;
}

static int check_ipv6(struct span host, const struct reason *reason)
{
    char text[INET6_ADDRSTRLEN];
    struct in6_addr address;

    if (host.length < sizeof(text)) {
        memcpy(text, host.text, host.length);
        text[host.length] = '\0';
        if (inet_pton(AF_INET6, text, &address) == 1)
            return 0;
    }
    return refuse(reason, "no IPv6 address between [ and ]: write one as in nbd://[2001:db8::1]/");
}

static int check_host(struct span authority, const struct reason *reason)
{
    struct span host = authority;
    struct span port = {authority.text + authority.length, 0};

    if (memchr(authority.text, '@', authority.length))
        return refuse(reason, "a user before the host: leave it out (the name for TLS is the key "
                              "tls-username in the disk's section)");
    if (authority.length > 0 && authority.text[0] == '[') {
        const char *end = memchr(authority.text, ']', authority.length);

        if (!end)
            return refuse(reason, "[ without ] around an IPv6 address: add it");
        host = (struct span){authority.text + 1, (size_t)(end - authority.text) - 1};
        port = (struct span){end + 1, authority.length - host.length - 2};
        if (check_ipv6(host, reason) < 0)
            return -EINVAL;
    } else {
        const char *colon = memchr(authority.text, ':', authority.length);

        if (colon) {
            host.length = (size_t)(colon - authority.text);
            port = (struct span){colon, authority.length - host.length};
            if (memchr(colon + 1, ':', port.length - 1))
                return refuse(reason, "an IPv6 address needs brackets: nbd://[2001:db8::1]/");
        }
        if (host.length == 0)
            return refuse(reason, "the host is missing: write nbd://HOST/EXPORT, or "
                                  "nbd+unix:///EXPORT?socket=/PATH for a local server");
        if (host.length > 253)
            return refuse(reason, "the host is longer than 253 bytes: no name or address is");
        for (size_t i = 0; i < host.length; i++)
            if (!is_alnum(host.text[i]) && !strchr(".-_", host.text[i]))
                return refuse(reason, "the host holds %c: write a name or an address",
                              host.text[i]);
    }
    return port.length > 0 ? check_port(port, reason) : 0;
}

static int check_socket(struct span value, const struct reason *reason)
{
    enum { PATH_BYTES = sizeof(((struct sockaddr_un *)0)->sun_path) };
    char path[PATH_BYTES] = "";
    size_t length = 0;

    if (decode(value, "the socket's path", path, sizeof(path), &length, reason) < 0)
        return -EINVAL;
    if (path[0] != '/')
        return refuse(reason, "the socket's path is not absolute: write socket=/PATH");
    if (length >= PATH_BYTES)
        return refuse(reason,
                      "the socket's path has %zu bytes and a socket's name at most %d: "
                      "use a shorter one, or a symbolic link",
                      length, PATH_BYTES - 1);
    return 0;
}

static int check_unix_query(struct span query, const struct reason *reason)
{
    static const char name[] = "socket=";
    const size_t name_length = sizeof(name) - 1;
    bool found = false;

    for (size_t at = 0; query.text && at < query.length;) {
        const char *part = query.text + at;
        const size_t length = strcspn(part, "&;"); /* libnbd splits at both */

        if (strncmp(part, "tls-", 4) == 0)
            return refuse(reason, "TLS is set up by the keys tls-certificates, tls-psk-file and "
                                  "tls-username of the disk's section, not in the URI");
        if (strncmp(part, name, name_length) != 0)
            return refuse(reason,
                          "unknown parameter \"%.*s\": only socket=/PATH may follow the "
                          "? (write & and ; in a path as %%26 and %%3B)",
                          (int)(length < 32 ? length : 32), part);
        if (found)
            return refuse(reason, "socket= is given twice: write it once");
        found = true;
        if (check_socket((struct span){part + name_length, length - name_length}, reason) < 0)
            return -EINVAL;
        at += length + 1;
    }
    if (!found)
        return refuse(reason, "the socket is missing: write nbd+unix:///EXPORT?socket=/PATH");
    return 0;
}

int config_uri_check(const char *uri, char *ret_reason, size_t reason_bytes)
{
    const struct reason reason = {ret_reason, reason_bytes};
    struct uri parts;
    size_t name_length = 0;

    if (check_characters(uri, &reason) < 0 || split(uri, &parts, &reason) < 0)
        return -EINVAL;
    if (parts.is_unix) {
        if (parts.authority.length > 0 || parts.path.length == 0)
            return refuse(&reason, "a local server has no host: write three slashes, "
                                   "nbd+unix:///EXPORT?socket=/PATH");
        if (check_unix_query(parts.query, &reason) < 0)
            return -EINVAL;
    } else {
        if (check_host(parts.authority, &reason) < 0)
            return -EINVAL;
        if (parts.query.text)
            return refuse(&reason, "nothing may follow a ? here: socket= needs nbd+unix:/// or "
                                   "nbds+unix:///, and TLS is set up by the disk's tls- keys");
    }
    if (decode(parts.path, "the export's name", NULL, 0, &name_length, &reason) < 0)
        return -EINVAL;
    if (name_length > LIMIT_EXPORT_NAME_BYTES + 1) /* its slash does not count */
        return refuse(&reason, "the export's name has %zu bytes and NBD's limit is %d",
                      name_length - 1, LIMIT_EXPORT_NAME_BYTES);
    return 0;
}

/* -- identity ------------------------------------------------------------------------------ */

static void hash_bytes(uint64_t *hash, const void *bytes, size_t count)
{
    const unsigned char *at = bytes;

    for (size_t i = 0; i < count; i++)
        *hash = (*hash ^ at[i]) * 0x100000001b3u; /* FNV-1a */
}

static void hash_text(uint64_t *hash, struct span span, bool fold)
{
    static const char end = '\0';

    for (size_t i = 0; i < span.length; i++) {
        char c = span.text[i];

        if (c == '%' && i + 2 < span.length && hex_digit(span.text[i + 1]) >= 0 &&
            hex_digit(span.text[i + 2]) >= 0) {
            c = (char)(hex_digit(span.text[i + 1]) * 16 + hex_digit(span.text[i + 2]));
            i += 2;
        } else if (fold && c >= 'A' && c <= 'Z') {
            c = (char)(c - 'A' + 'a');
        }
        hash_bytes(hash, &c, 1);
    }
    hash_bytes(hash, &end, 1);
}

static void hash_server(uint64_t *hash, struct span authority)
{
    struct span host = authority;
    unsigned long port = 10809; /* NBD's */
    const char *colon;
    char text[INET6_ADDRSTRLEN] = "";
    struct in6_addr address;

    if (host.length > 0 && host.text[0] == '[' && memchr(host.text, ']', host.length))
        host.length = (size_t)((const char *)memchr(host.text, ']', host.length) - host.text) + 1;
    else if ((colon = memchr(host.text, ':', host.length)))
        host.length = (size_t)(colon - host.text);
    if (host.length + 1 < authority.length)
        port = strtoul(host.text + host.length + 1, NULL, 10);
    hash_bytes(hash, &port, sizeof(port));
    if (host.length > 2 && host.length - 2 < sizeof(text) && host.text[0] == '[') {
        memcpy(text, host.text + 1, host.length - 2);
        if (inet_pton(AF_INET6, text, &address) == 1) {
            hash_bytes(hash, &address, sizeof(address));
            return;
        }
    }
    hash_text(hash, host, true);
}

uint64_t config_uri_identity(const char *uri)
{
    char unused[LIMIT_REASON_BYTES];
    const struct reason reason = {unused, sizeof(unused)};
    uint64_t hash = 0xcbf29ce484222325u;
    struct uri parts;

    if (split(uri, &parts, &reason) < 0) {
        hash_text(&hash, (struct span){uri, strlen(uri)}, false);
        return hash;
    }
    if (parts.is_unix)
        hash_text(&hash, parts.query, false); /* socket=/PATH is all there may be */
    else
        hash_server(&hash, parts.authority);
    if (parts.path.length > 0) /* nbd://HOST and nbd://HOST/ are the same */
        parts.path = (struct span){parts.path.text + 1, parts.path.length - 1};
    hash_text(&hash, parts.path, false);
    return hash;
}

/* -- QEMU ---------------------------------------------------------------------------------- */

int config_uri_for_qemu(const char *uri, char *ret_uri, size_t bytes)
{
    size_t length = 0;

    if (strncmp(uri, "nbds", 4) == 0)
        return -EINVAL;
    for (const char *at = uri; *at; at++)
        length += *at == ',' ? 3 : 1;
    if (length >= bytes)
        return -ENAMETOOLONG;
    for (const char *at = uri; *at; at++) {
        if (*at == ',') {
            memcpy(ret_uri, "%2C", 3);
            ret_uri += 3;
        } else {
            *ret_uri++ = *at;
        }
    }
    *ret_uri = '\0';
    return 0;
}
