/* Deferred batching with all its rules (docs/disciplines.md), as plain C: what compiled Python is measured against.
 *
 * One kind of instances, window `frontrun`, drop `window`, match `both`, the lowest-numbered instance. The arrays are those
 * of `partita.kernels.deferred.serve`, so that both can be asked for the same account.
 */
#include <stdint.h>
#include <stdlib.h>

typedef int64_t i64;
#define NEVER ((i64)1 << 62)
#define BIN_NS 50000000LL
#define BINS 100
#define SLOTS (BINS + 1)
enum { HEAD, SPLIT, TAIL, END, STATUS, BATCH, EXEC_AT, INVALID_AFTER, DUE, SLO, CAP, TARGET, METERED, BIN, FIRST_BIN,
       BIN_END, TOTAL, LAST_START, METER = 24, AIM = METER + SLOTS, WIDE, COLUMNS };
enum { IDLE, WAITING, PENDING, EXPIRED };

typedef struct {
    const i64 *ns, *latency;
    i64 *account, *state, width;
    i64 control, data, response, jitter;
} Work;

static inline i64 min(i64 a, i64 b) { return a < b ? a : b; }
static inline i64 max(i64 a, i64 b) { return a > b ? a : b; }

/* Tournament trees: leaf i at width + i, the smaller of nodes 2k and 2k + 1 at k. */
typedef struct { i64 *node, width; } Tree;

static Tree grow(i64 count) {
    Tree t = {0, 1};
    while (t.width < count) t.width *= 2;
    t.node = malloc(2 * t.width * sizeof(i64));
    for (i64 k = 0; k < 2 * t.width; k++) t.node[k] = NEVER;
    return t;
}

static inline void put(Tree t, i64 leaf, i64 key) {
    i64 k = t.width + leaf;
    t.node[k] = key;
    for (k /= 2; k >= 1; k /= 2) {
        i64 winner = min(t.node[2 * k], t.node[2 * k + 1]);
        if (t.node[k] == winner) break;
        t.node[k] = winner;
    }
}

static inline i64 smallest(Tree t) {
    i64 k = 1;
    while (k < t.width) { k *= 2; k += t.node[k] > t.node[k + 1]; }
    return k - t.width;
}

static inline i64 first_within(Tree t, i64 bound) {
    i64 k = 1;
    while (k < t.width) { k *= 2; k += t.node[k] > bound; }
    return k - t.width;
}

/* The rate meter. */
static void turn_to(i64 *s, i64 present) {
    if (present - s[BIN] >= SLOTS) {
        for (int k = 0; k < SLOTS; k++) s[METER + k] = 0;
        s[TOTAL] = 0;
    } else
        for (i64 b = s[BIN]; b < present; b++) {
            s[TOTAL] += s[METER + b % SLOTS] - s[METER + (b + 1) % SLOTS];
            s[METER + (b + 1) % SLOTS] = 0;
        }
    s[BIN] = present;
    s[BIN_END] = (present + 1) * BIN_NS;
    s[TARGET] = 0;
}

/* Return the first row in [row, tail) that is not before an instant, or tail. */
static i64 first_from(const i64 *ns, i64 row, i64 tail, i64 instant) {
    i64 step = 1;
    while (row + step <= tail && ns[row + step - 1] < instant) row += step, step *= 2;
    for (; step > 0; step /= 2)
        if (row + step <= tail && ns[row + step - 1] < instant) row += step;
    return row;
}

static void meter_to(const Work *w, i64 *s, i64 now) {
    i64 row = s[METERED], tail = s[TAIL];
    while (row < tail) {
        if (w->ns[row] >= s[BIN_END]) {
            i64 present = w->ns[row] / BIN_NS;
            if (s[FIRST_BIN] < 0) s[FIRST_BIN] = s[BIN] = present;
            turn_to(s, present);
        }
        i64 first = row;
        row = first_from(w->ns, row, tail, s[BIN_END]);
        s[METER + s[BIN] % SLOTS] += row - first;
    }
    s[METERED] = row;
    if (now >= s[BIN_END] && s[FIRST_BIN] >= 0) turn_to(s, now / BIN_NS);
}

static i64 target_batch(const Work *w, const i64 *s, const i64 *latency, double rate) {
    i64 best = 1;
    if (rate < 0.0) {
        while (best < s[CAP] && latency[best + 1] <= s[SLO] / 2.0 - w->response) best++;
        return best;
    }
    double budget = s[SLO] - w->control - w->response, busy = 0.0;
    best = s[CAP];
    for (i64 b = 1; b <= s[CAP]; b++) {
        double run = latency[b];
        busy = rate * run / b;
        if (run * (1.0 + 1.0 / (busy > 1.0 ? busy : 1.0)) > budget - w->data * b) { best = max(1, b - 1); break; }
    }
    if (busy > 1.0) return best;
    for (best = 1; best < s[CAP]; best++) {
        i64 b = best + 1;
        if (latency[b] + b / (rate > 1e-300 ? rate : 1e-300) + w->data * b > budget) break;
    }
    return best;
}

static i64 target_now(const Work *w, i64 *s, const i64 *latency, i64 now) {
    if (s[TARGET] == 0 || now >= s[BIN_END]) {
        meter_to(w, s, now);
        i64 bins = min(BINS, s[BIN] - s[FIRST_BIN]);
        s[TARGET] = target_batch(w, s, latency, bins > 0 ? s[TOTAL] / (bins * (double)BIN_NS) : -1.0);
    }
    return s[TARGET];
}

/* Candidates. */
static inline i64 gather(const Work *w, i64 *s, const i64 *latency, i64 now, i64 free_at) {
    i64 deadline = s[SLO] - w->response, ready = now + w->control, data = w->data;
    i64 head = s[HEAD], tail = s[TAIL], split = max(s[SPLIT], tail - s[CAP]), b = 0;
    for (; split < tail; split++) {
        i64 size = tail - split;
        if (w->ns[split] + deadline >= max(ready + data * size, free_at) + latency[size]) break;
    }
    if (split < tail) {
        i64 least = tail - split;
        if (head < split) least = min(least, target_now(w, s, latency, now));
        i64 done = max(ready + data * least, free_at) + latency[least];
        while (head < split && w->ns[head] + deadline < done) w->account[2 * head++ + 1] = -1;
        i64 first = w->ns[head] + deadline, most = min(tail - head, s[CAP]);
        b = min(max(s[BATCH], least), most);
        while (b > least && first < max(ready + data * b, free_at) + latency[b]) b--;
        while (b < most && first >= max(ready + data * (b + 1), free_at) + latency[b + 1]) b++;
    }
    s[HEAD] = head;
    s[SPLIT] = split;
    return b;
}

static inline i64 wanted(const Work *w, const i64 *s, const i64 *latency, i64 b, i64 earliest) {
    if (b >= s[CAP]) return earliest;
    return max(earliest, w->ns[s[HEAD]] + s[SLO] - w->response - w->jitter - latency[b + 1] - w->data);
}

static inline void form(const Work *w, i64 *s, const i64 *latency, i64 now) {
    i64 b = s[BATCH] = gather(w, s, latency, now, -NEVER);
    if (b == 0) { s[STATUS] = IDLE; s[DUE] = NEVER; return; }
    i64 lead = w->control + w->data * b;
    s[STATUS] = WAITING;
    s[EXEC_AT] = wanted(w, s, latency, b, now + lead);
    s[INVALID_AFTER] = w->ns[s[HEAD]] + s[SLO] - w->response - latency[b];
    s[DUE] = max(now, s[EXEC_AT] - lead);
}

static inline void fill(const Work *w, i64 *s, const i64 *latency) {
    i64 head = s[HEAD], end = s[END], cap = s[CAP], due = s[DUE], tail = s[TAIL], size = tail - head, first = tail;
    i64 deadline = size > 0 ? w->ns[head] + s[SLO] - w->response : 0, exec_at = 0, last = 0;
    if (s[SPLIT] > head) return;
    while (tail < end && size < cap) {
        i64 now = w->ns[tail];
        if (now > due) break;
        if (size == 0) deadline = now + s[SLO] - w->response;
        i64 ready = now + w->control + w->data * (size + 1);
        if (ready > deadline - latency[size + 1]) break;
        tail++, size++;
        last = deadline - latency[size];
        exec_at = size < cap ? max(ready, deadline - w->jitter - w->data - latency[size + 1]) : ready;
        due = exec_at - w->control - w->data * size;
    }
    if (tail > first) {
        s[TAIL] = tail, s[BATCH] = size, s[STATUS] = WAITING;
        s[EXEC_AT] = exec_at, s[INVALID_AFTER] = last, s[DUE] = due;
    }
}

static inline i64 settle(const Work *w, i64 *s, const i64 *latency) {
    if (s[STATUS] == PENDING) return s[TAIL] < s[END] ? min(s[DUE], w->ns[s[TAIL]]) : s[DUE];
    for (;;) {
        fill(w, s, latency);
        if (s[TAIL] >= s[END] || w->ns[s[TAIL]] > s[DUE]) return s[DUE];
        form(w, s, latency, w->ns[s[TAIL]++]);
    }
}

/* The event loop. */
typedef struct { Tree free, events, urgent, leads; } Queue;

static inline i64 lead_of(const Work *w, const i64 *s) { return w->control + w->data * s[BATCH]; }

static inline void rank(const Work *w, Queue *q, i64 n, const i64 *s, int waits) {
    put(q->urgent, n, waits ? s[INVALID_AFTER] : NEVER);
    if (w->data > 0) put(q->leads, n, waits ? -lead_of(w, s) : NEVER);
}

static inline void await(const Work *w, Queue *q, i64 n, i64 *s, i64 now) {
    s[STATUS] = PENDING;
    s[DUE] = max(now, s[INVALID_AFTER] - lead_of(w, s)) + 1;
    s[AIM] = 0;
    rank(w, q, n, s, 1);
}

i64 advance(const i64 *ns, i64 *account, const i64 *latency, i64 width, i64 *state, i64 services, i64 *free_at,
            i64 instances, i64 control, i64 data, i64 response, i64 jitter, i64 since, i64 until, int32_t *log_instance,
            int32_t *log_service, int32_t *log_size, i64 *log_start, i64 *log_finish) {
    Work work = {ns, latency, account, state, width, control, data, response, jitter}, *w = &work;
    Queue queue = {grow(instances), grow(services), grow(services), grow(services)}, *q = &queue;
    i64 logged = 0, now = since;
    for (i64 g = 0; g < instances; g++) put(q->free, g, free_at[g]);
    for (i64 n = 0; n < services; n++) {
        i64 *s = state + n * COLUMNS;
        i64 tail = s[TAIL];
        while (tail < s[END] && ns[tail] < since) tail++;
        if (tail > s[TAIL]) s[TAIL] = tail, form(w, s, latency + n * width, since);
        if (s[STATUS] == PENDING) rank(w, q, n, s, 1);
        put(q->events, n, settle(w, s, latency + n * width));
    }
    for (;;) {
        i64 free = q->free.node[1], due = q->events.node[1], look_at = NEVER;
        if (q->urgent.node[1] < NEVER && free < NEVER)
            look_at = max(now, free - (data > 0 ? -q->leads.node[1] : control));
        if (min(due, look_at) >= until) break;
        now = max(now, min(due, look_at));
        i64 n, g = -1, at = -1, *s, was_pending = 0;
        const i64 *l;
        if (due <= look_at) {
            n = smallest(q->events), s = state + n * COLUMNS, l = latency + n * width;
            was_pending = s[STATUS] == PENDING;
            if (was_pending) at = s[TAIL] < s[END] && ns[s[TAIL]] <= due ? ns[s[TAIL]++] : now;
            else if (s[STATUS] != WAITING) at = now;
            else if (now + lead_of(w, s) > s[INVALID_AFTER]) s[STATUS] = EXPIRED, s[DUE] = now + 1;
            else if (free > s[EXEC_AT]) await(w, q, n, s, now);
            else g = first_within(q->free, s[EXEC_AT]);
        } else {
            n = -1;
            while (q->urgent.node[1] < NEVER && n < 0) {
                n = smallest(q->urgent), s = state + n * COLUMNS, l = latency + n * width;
                rank(w, q, n, s, 0);
                if (s[INVALID_AFTER] >= free) break;
                s[STATUS] = EXPIRED;
                put(q->events, n, settle(w, s, l));
                n = -1;
            }
            if (n < 0) continue;
            g = smallest(q->free);
        }
        if (g >= 0) {
            i64 free_g = q->free.node[q->free.width + g], b = gather(w, s, l, now, free_g);
            if (b > 0) {
                i64 head = s[HEAD], start = wanted(w, s, l, b, max(now + control + data * b, free_g));
                for (i64 row = head; row < head + b; row++) account[2 * row] = start, account[2 * row + 1] = start + l[b];
                s[HEAD] = head + b;
                s[SPLIT] = max(s[SPLIT], head + b);
                s[LAST_START] = start;
                put(q->free, g, start + l[b]);
                log_instance[logged] = g, log_service[logged] = n, log_size[logged] = b;
                log_start[logged] = start, log_finish[logged++] = start + l[b];
            }
            at = now;
        }
        if (at >= 0) form(w, s, l, at);
        if (was_pending) {
            if (s[STATUS] == WAITING && s[DUE] <= now) await(w, q, n, s, now);
            else rank(w, q, n, s, 0);
        }
        put(q->events, n, settle(w, s, l));
    }
    for (i64 n = 0; n < services; n++) meter_to(w, state + n * COLUMNS, 0);
    for (i64 g = 0; g < instances; g++) free_at[g] = q->free.node[q->free.width + g];
    free(q->free.node), free(q->events.node), free(q->urgent.node), free(q->leads.node);
    return logged;
}
