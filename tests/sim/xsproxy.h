/* xsproxy: a unix socket that leads to another one until it is cut. xenstored keeps its tree while
 * a client believes it dead. */
#ifndef XSPROXY_H
#define XSPROXY_H

struct xsproxy;

struct xsproxy *xsproxy_start(const char *path, const char *to); /* NULL on failure */
void xsproxy_cut(struct xsproxy *proxy);  /* ends all connections, and takes no new ones */
void xsproxy_mend(struct xsproxy *proxy); /* takes new ones again */
void xsproxy_end(struct xsproxy *proxy);

#endif
