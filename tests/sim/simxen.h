/* simxen's inner interfaces: the tables of domains, grants and ports. One thread, no locks. */
#ifndef SIMXEN_H
#define SIMXEN_H

#include <stdbool.h>
#include "simproto.h"

struct client {
    struct client *next;
    int fd;
    int event_fd;
    uint32_t kind;
    uint32_t domid;
    uint32_t handle;
    uint32_t next_mapping;
    struct mapping *mappings;
    bool dead;
};

struct domain {
    struct domain *next;
    uint32_t domid;
    uint32_t generation; /* 0: dead, and kept only because grants of it are mapped */
    uint32_t pages;
    uint32_t pins;
    int memory_fd;
    int grants_fd;
    _Atomic uint64_t *grants;
    struct client *owner; /* dies with it */
};

struct mapping {
    struct mapping *next;
    uint32_t id;
    uint32_t count;
    struct pin {
        struct domain *dom;
        uint32_t ref;
    } pins[];
};

extern struct sim_shared *shared;
extern int shared_fd;
extern const char *sim_dir;

/* simxen.c */
struct client *client_of_handle(uint32_t handle);

/* simxen-domain.c. All return 0 or an errno; msg is the request and becomes the reply. */
struct domain *domain_find(uint32_t domid);
int domain_create(struct client *owner, uint32_t domid, uint32_t pages, struct domain **ret_dom);
void domain_destroy(struct domain *dom);
void domains_of_client_destroy(struct client *client);
uint32_t domain_pins(uint32_t domid);
int grants_map(struct client *client, struct sim_msg *msg);
int grants_unmap(struct client *client, uint32_t id);
int pages_share(struct client *client, struct sim_msg *msg);
int pages_unshare(struct client *client, uint32_t first, uint32_t count);
void grants_of_client_release(struct client *client);

/* simxen-port.c */
int port_alloc(struct client *client, uint32_t remote_domid, struct sim_msg *msg);
int port_bind(struct client *client, struct sim_msg *msg, int *ret_fd);
int port_close(struct client *client, uint32_t port);
void ports_of_client_close(struct client *client);
void ports_of_domain_close(uint32_t domid);

#endif
