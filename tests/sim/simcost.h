/* What a hypercall costs on a real Xen, beside the system call that the stand-ins make anyway: time
 * that the caller spends, so that batching is worth here what it is worth there. Nothing, unless
 * the environment of the process says otherwise, in nanoseconds:
 *
 *      BLKGATE_SIM_BATCH_NS    each batch of up to 16 operations of a grant copy
 *      BLKGATE_SIM_NOTIFY_NS   each notification, and each unmask of a port whose next event has
 *                              come already (of others Linux does not tell Xen)
 *
 * Read once in a process, by each stand-in that it loads; a value that is no number ends it.
 */
#ifndef SIMCOST_H
#define SIMCOST_H

void sim_cost_batch(void);
void sim_cost_notify(void);

#endif
