/* Deferred batching and nothing more, as plain C: what one core can do with the bare rule.
 *
 * One queue a service, first come first served. A batch starts when one more request would no longer fit into it; if no
 * instance is free then, the service waits, and the next instance that comes free takes the service whose oldest
 * request is due first. Requests that could no longer run alone are dropped. No time passes outside the instances, all
 * of which are alike, and nobody meters rates.
 *
 * The log is known beforehand. Hence one event a batch: when a batch will start is found by looking ahead along the
 * service's own arrivals, eight at once without a branch.
 */
#include <stdint.h>
#include <stdlib.h>

typedef int64_t i64;
#define NEVER ((i64)1 << 62)
#define AT_ONCE 8
#define FAR 24 /* rows beyond a batch that are fetched early: there are more services than the processor follows */

typedef struct { i64 head, end, slo, cap; const i64 *latency; } Queue;

static inline i64 max(i64 a, i64 b) { return a > b ? a : b; }
static inline i64 min(i64 a, i64 b) { return a < b ? a : b; }

/* Tournament trees: leaf i at width + i, the smaller of nodes 2k and 2k + 1 at k. */
typedef struct { i64 *node, width; } Tree;

static Tree grow(i64 count, i64 key) {
    Tree t = {0, 1};
    while (t.width < count) t.width *= 2;
    t.node = malloc(2 * t.width * sizeof(i64));
    for (i64 k = 0; k < t.width; k++) t.node[t.width + k] = k < count ? key : NEVER;
    for (i64 k = t.width - 1; k > 0; k--) t.node[k] = min(t.node[2 * k], t.node[2 * k + 1]);
    return t;
}

static inline void put(Tree t, i64 leaf, i64 key) {
    i64 k = t.width + leaf;
    t.node[k] = key;
    for (; k > 1; k /= 2) {
        i64 winner = min(key, t.node[k ^ 1]);
        if (t.node[k / 2] == winner) break;
        t.node[k / 2] = key = winner;
    }
}

static inline i64 smallest(Tree t) {
    i64 k = 1;
    while (k < t.width) { k *= 2; k += t.node[k] > t.node[k + 1]; }
    return k - t.width;
}

/* Return when the batch of the queue's oldest request starts if an instance is free then. */
static inline i64 starts(const i64 *ns, const Queue *q) {
    const i64 *at = ns + q->head, *latency = q->latency;
    i64 left = q->end - q->head, due = at[0] + q->slo, n = 1, more;
    if (left > q->cap + AT_ONCE)
        do {
            more = 0;
            for (int i = 0; i < AT_ONCE; i++) more += at[n + i] + latency[n + 1 + i] <= due;
            n += more;
        } while (more == AT_ONCE);
    else if (left > 0)
        while (n < left && at[n] + latency[n + 1] <= due) n++;
    else
        return NEVER;
    return n < q->cap ? max(at[n - 1], due - latency[n + 1]) : at[n - 1];
}

/* Start the largest batch that is in time, and return when it ends. */
static inline i64 start(const i64 *ns, Queue *q, i64 now, i64 *finish) {
    const i64 *at = ns + q->head, *latency = q->latency;
    i64 left = q->end - q->head, spare = at[0] + q->slo - now, n = 1, more;
    if (left > q->cap + AT_ONCE)
        do {
            more = 0;
            for (int i = 0; i < AT_ONCE; i++) more += (at[n + i] <= now) & (latency[n + 1 + i] <= spare);
            n += more;
        } while (more == AT_ONCE);
    else
        while (n < left && at[n] <= now && latency[n + 1] <= spare) n++;
    i64 end = now + latency[n], *to = finish + q->head;
    q->head += n;
    __builtin_prefetch(at + n + FAR), __builtin_prefetch(to + n + FAR, 1);
    if (left > q->cap + AT_ONCE) /* what is written too much belongs to later requests of the same service */
        for (i64 k = 0; k < n; k += AT_ONCE)
            for (int i = 0; i < AT_ONCE; i++) to[k + i] = end;
    else
        for (i64 k = 0; k < n; k++) to[k] = end;
    return end;
}

/* Drop requests that can no longer run alone; return how many. */
static inline i64 drop(const i64 *ns, Queue *q, i64 now, i64 *finish) {
    i64 too_old = now + q->latency[1] - q->slo, first = q->head;
    while (q->head < q->end && ns[q->head] < too_old) finish[q->head++] = -1;
    return q->head - first;
}

/* Serve all requests; `finish` gets when each is done, -1 where it was dropped. Return the number of batches. */
i64 serve(const i64 *ns, const i64 *offsets, const i64 *slo, const i64 *cap, const i64 *latency, i64 width,
          i64 services, i64 instances, i64 *finish) {
    i64 stride = width + AT_ONCE, *table = malloc(services * stride * sizeof(i64)), now = 0, batches = 0;
    Queue *queues = malloc(services * sizeof(Queue));
    Tree free_at = grow(instances, 0), events = grow(services, NEVER), waiting = grow(services, NEVER);
    for (i64 s = 0; s < services; s++) {
        i64 *row = table + s * stride;
        for (i64 b = 0; b < stride; b++) row[b] = b <= cap[s] ? latency[s * width + b] : NEVER;
        queues[s] = (Queue){offsets[s], offsets[s + 1], slo[s], cap[s], row};
        put(events, s, starts(ns, queues + s));
    }
    for (;;) {
        i64 due = events.node[1], free_from = free_at.node[1], s;
        i64 look_at = waiting.node[1] < NEVER ? max(now, free_from) : NEVER;
        if (min(due, look_at) >= NEVER) break;
        int granted = 1;
        if (due <= look_at)
            now = due, s = smallest(events), granted = free_from <= now;
        else
            now = look_at, s = smallest(waiting), granted = !drop(ns, queues + s, now, finish);
        Queue *q = queues + s;
        if (granted) {
            put(free_at, smallest(free_at), start(ns, q, now, finish));
            drop(ns, q, now, finish);
            batches++;
        }
        i64 then = max(now, starts(ns, q));
        int waits = then <= now && (!granted || free_at.node[1] > now);
        put(events, s, waits ? NEVER : then);
        put(waiting, s, waits ? ns[q->head] + q->slo : NEVER);
    }
    free(free_at.node), free(events.node), free(waiting.node), free(queues), free(table);
    return batches;
}
