/* Domains, their memory and grant tables, and who has which grant mapped.
 *
 * A domain that dies while grants of it are mapped stays in the list as a zombie, without a
 * generation, until the last of them is unmapped: that is what leak tests look for. */
#include "simxen.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct shared_page {
    struct client *client; /* NULL: free, or waiting for the last unmap */
    uint32_t ref;          /* 0: free */
};

static struct domain *domains;
static struct shared_page shared_pages[SIM_DOM0_PAGES]; /* of domain 0 */

struct domain *domain_find(uint32_t domid)
{
    struct domain *dom;

    for (dom = domains; dom; dom = dom->next)
        if (dom->domid == domid && dom->generation)
            return dom;
    return NULL;
}

static int memory_create(const char *name, size_t bytes)
{
    int fd = memfd_create(name, MFD_CLOEXEC);

    if (fd >= 0 && ftruncate(fd, (off_t)bytes) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* xenstored's shim takes a domain to exist while this file does. */
static void domain_file(uint32_t domid, bool exists)
{
    char path[256];
    int fd;

    snprintf(path, sizeof(path), "%s/dom/%u", sim_dir, domid);
    if (!exists) {
        unlink(path);
        return;
    }
    fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    if (fd >= 0)
        close(fd);
}

/* Raises VIRQ_DOM_EXC in xenstored, which then looks who is gone and fires @releaseDomain. */
static void domain_exception(void)
{
    static const uint32_t port = 1;
    char path[256];
    int fd;

    snprintf(path, sizeof(path), "%s/evt", sim_dir);
    fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return; /* xenstored does not run */
    if (write(fd, &port, sizeof(port)) != sizeof(port))
        perror("simxen: xenstored was not told of a domain's end");
    close(fd);
}

static void domain_free(struct domain *dom)
{
    struct domain **link = &domains;

    while (*link && *link != dom)
        link = &(*link)->next;
    if (*link)
        *link = dom->next;
    if (dom->grants)
        munmap((void *)(uintptr_t)dom->grants, SIM_GRANTS * sizeof(uint64_t));
    if (dom->memory_fd >= 0)
        close(dom->memory_fd);
    if (dom->grants_fd >= 0)
        close(dom->grants_fd);
    free(dom);
}

int domain_create(struct client *owner, uint32_t domid, uint32_t pages, struct domain **ret_dom)
{
    static uint32_t last_generation;
    struct domain *dom;
    void *p;

    if (domid >= SIM_DOMAINS || pages == 0 || pages > 1u << 20)
        return EINVAL;
    if (domain_find(domid))
        return EEXIST;
    dom = calloc(1, sizeof(*dom));
    if (!dom)
        return ENOMEM;
    dom->domid = domid;
    dom->owner = owner;
    dom->pages = pages;
    dom->memory_fd = memory_create("domain-memory", (size_t)pages * SIM_PAGE);
    dom->grants_fd = memory_create("domain-grants", SIM_GRANTS * sizeof(uint64_t));
    if (dom->memory_fd < 0 || dom->grants_fd < 0)
        goto fail;
    p = mmap(NULL, SIM_GRANTS * sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED,
             dom->grants_fd, 0);
    if (p == MAP_FAILED)
        goto fail;
    dom->grants = p;
    dom->generation = ++last_generation;
    dom->next = domains;
    domains = dom;
    domain_file(domid, true);
    atomic_store(&shared->domain_generation[domid], dom->generation);
    *ret_dom = dom;
    return 0;
fail:
    domain_free(dom);
    return ENOMEM;
}

void domain_destroy(struct domain *dom)
{
    atomic_store(&shared->domain_generation[dom->domid], 0);
    dom->generation = 0;
    dom->owner = NULL;
    ports_of_domain_close(dom->domid);
    domain_file(dom->domid, false);
    domain_exception();
    if (dom->pins == 0)
        domain_free(dom);
}

void domains_of_client_destroy(struct client *client)
{
    struct domain *dom, *next;

    for (dom = domains; dom; dom = next) {
        next = dom->next;
        if (dom->owner == client)
            domain_destroy(dom);
    }
}

uint32_t domain_pins(uint32_t domid)
{
    struct domain *dom;
    uint32_t pins = 0;

    for (dom = domains; dom; dom = dom->next)
        if (dom->domid == domid)
            pins += dom->pins;
    return pins;
}

static bool grant_pin(struct domain *dom, uint32_t ref, uint32_t domid, bool writable)
{
    uint64_t word;

    if (ref >= SIM_GRANTS)
        return false;
    word = atomic_load(&dom->grants[ref]);
    do {
        if (!(word & SIM_GRANT_VALID) || SIM_GRANT_DOMID(word) != domid ||
            SIM_GRANT_FRAME(word) >= dom->pages || (writable && (word & SIM_GRANT_READONLY)))
            return false;
    } while (!atomic_compare_exchange_weak(&dom->grants[ref], &word, word + SIM_GRANT_PIN));
    dom->pins++;
    return true;
}

static void mapping_release(struct mapping *map)
{
    struct domain *dom;
    uint32_t i;

    for (i = 0; i < map->count; i++) {
        dom = map->pins[i].dom;
        atomic_fetch_sub(&dom->grants[map->pins[i].ref], SIM_GRANT_PIN);
        if (--dom->pins == 0 && dom->generation == 0)
            domain_free(dom);
    }
    free(map);
}

/* All or nothing. The reply's list names the frame of each grant. */
int grants_map(struct client *client, struct sim_msg *msg)
{
    uint32_t count = msg->used / 2, i, ref;
    bool writable = msg->arg[0] != 0;
    struct mapping *map;
    struct domain *dom;

    map = calloc(1, sizeof(*map) + count * sizeof(map->pins[0]));
    if (!map)
        return ENOMEM;
    for (i = 0; i < count; i++) {
        dom = domain_find(msg->list[2 * i]);
        ref = msg->list[2 * i + 1];
        if (!dom || !grant_pin(dom, ref, client->domid, writable)) {
            mapping_release(map);
            return EINVAL;
        }
        map->pins[i] = (struct pin){dom, ref};
        map->count = i + 1;
    }
    for (i = 0; i < count; i++)
        msg->list[i] = SIM_GRANT_FRAME(atomic_load(&map->pins[i].dom->grants[map->pins[i].ref]));
    msg->used = count;
    map->id = ++client->next_mapping;
    map->next = client->mappings;
    client->mappings = map;
    msg->arg[0] = map->id;
    return 0;
}

int grants_unmap(struct client *client, uint32_t id)
{
    struct mapping **link, *map;

    for (link = &client->mappings; *link; link = &(*link)->next) {
        map = *link;
        if (map->id != id)
            continue;
        *link = map->next;
        mapping_release(map);
        return 0;
    }
    return ENOENT;
}

static void shared_pages_collect(struct domain *dom)
{
    struct shared_page *page;

    for (page = shared_pages; page < shared_pages + SIM_DOM0_PAGES; page++) {
        if (page->client || !page->ref || SIM_GRANT_PINS(atomic_load(&dom->grants[page->ref])))
            continue;
        atomic_store(&dom->grants[page->ref], 0);
        page->ref = 0;
    }
}

/* Pages of domain 0 for xengntshr_share_pages. A client of another domain shares its own. */
int pages_share(struct client *client, struct sim_msg *msg)
{
    uint32_t domid = msg->arg[0], count = msg->arg[2], first = 0, run = 0, i, ref;
    uint64_t flags = SIM_GRANT_VALID | (msg->arg[1] ? 0 : SIM_GRANT_READONLY);
    struct domain *dom = domain_find(0);

    if (client->domid != 0 || count == 0 || count > SIM_MAP_MAX)
        return EINVAL;
    shared_pages_collect(dom);
    for (i = 0; i < SIM_DOM0_PAGES && run < count; i++)
        run = shared_pages[i].ref ? 0 : run + 1;
    if (run < count)
        return ENOSPC;
    first = i - count;
    for (i = 0, ref = SIM_GRANT_FIRST; i < count; i++, ref++) {
        while (atomic_load(&dom->grants[ref]))
            ref++; /* ends: there are more grants than pages */
        shared_pages[first + i] = (struct shared_page){client, ref};
        atomic_store(&dom->grants[ref], flags | (uint64_t)domid << 32 | (first + i));
        msg->list[i] = ref;
    }
    msg->used = count;
    msg->arg[0] = first;
    return 0;
}

int pages_unshare(struct client *client, uint32_t first, uint32_t count)
{
    uint32_t i;

    if (first > SIM_DOM0_PAGES || count > SIM_DOM0_PAGES - first)
        return EINVAL;
    for (i = first; i < first + count; i++)
        if (shared_pages[i].client == client)
            shared_pages[i].client = NULL;
    shared_pages_collect(domain_find(0));
    return 0;
}

void grants_of_client_release(struct client *client)
{
    struct mapping *map;

    while ((map = client->mappings)) {
        client->mappings = map->next;
        mapping_release(map);
    }
    pages_unshare(client, 0, SIM_DOM0_PAGES);
}
