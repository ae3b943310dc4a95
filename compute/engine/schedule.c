// Who computes what in the next step, and in which pages.
//
// A sample's pages grow with it; nothing is reserved for tokens that may never come. When the pool is full, the youngest
// sample gives its pages back and is computed again later, from the prompt and the tokens drawn: its draws are keyed by
// position and its rows by content, so it goes on with the same bits. The oldest sample never gives way, so that
// everything ends.
#include "compute/engine/internal.h"

#include "compute/base/check.h"

#include <string.h>

static void release_own(struct engine *e, struct sequence *s)
{
    while (s->own_count > 0)
        pages_release(e->pages, s->own[--s->own_count]);
    s->fed = s->take = 0;
}

static void release_prompt(struct engine *e, struct job *j)
{
    // From the end: the beginning, which more prompts share, is then given away last.
    for (uint32_t i = j->page_count; j->resident && i > 0; i--)
        pages_release(e->pages, j->pages[i - 1]);
    j->resident = false;
    j->computed = j->take = j->kept = 0;
}

// Offers the pages of an answer to the prefix cache: the next turn of a conversation begins with it.
static void keep_answer(struct engine *e, struct job *j, const struct sequence *s)
{
    const uint32_t whole = j->prompt.count / PAGE_TOKENS;
    uint8_t key[HASH_BYTES] = {0};
    if (whole > 0)
        memcpy(key, j->keys[whole - 1], sizeof key);
    for (uint32_t page = whole; (page + 1) * PAGE_TOKENS <= j->prompt.count + s->fed; page++) {
        if (!prefix_key(&j->prompt, j->g.scope, j->digests, s->ids, page, key, key))
            return; // no host memory: it is not kept, then
        pages_keep(e->pages, s->own[page - whole], key);
    }
}

void schedule_release_ended(struct engine *e, struct job *j)
{
    for (uint32_t i = 0; i < j->g.n; i++) {
        struct sequence *s = &j->sequences[i];
        if (!s->ended || s->own_count == 0)
            continue;
        keep_answer(e, j, s);
        release_own(e, s);
    }
}

void schedule_release(struct engine *e, struct job *j)
{
    for (uint32_t i = 0; i < j->g.n; i++)
        release_own(e, &j->sequences[i]);
    release_prompt(e, j);
}

void schedule_keep_prefixes(struct engine *e)
{
    for (struct job *j = e->running; j; j = j->next)
        for (; j->resident && (j->kept + 1) * PAGE_TOKENS <= j->computed; j->kept++)
            pages_keep(e->pages, j->pages[j->kept], j->keys[j->kept]);
}

// The youngest active sample loses its pages. Jobs stand in order of arrival. NULL: none is active.
static struct sequence *preempt_youngest(struct engine *e)
{
    struct job *job = NULL;
    struct sequence *youngest = NULL;
    for (struct job *j = e->running; j; j = j->next)
        for (uint32_t i = 0; i < j->g.n; i++)
            if (!j->sequences[i].ended && j->sequences[i].active) {
                job = j;
                youngest = &j->sequences[i];
            }
    if (!youngest)
        return NULL;
    release_own(e, youngest);
    youngest->active = false;
    e->stats.preemptions++;
    if (!job_is_active(job))
        release_prompt(e, job);
    return youngest;
}

// Pages for `tokens` keys of the sample's own. 1: it has them; 0: it had to give way itself; -1: no host memory.
static int grow(struct engine *e, struct job *j, struct sequence *s, uint32_t tokens)
{
    const uint32_t wanted = sequence_pages(j, tokens);
    const bool tail = j->prompt.count % PAGE_TOKENS != 0;
    while (s->own_count < wanted) {
        uint32_t page;
        // The first sample writes behind the prompt in the prompt's own last page; the others get a copy (batch.c).
        // What they copy is not touched by that: it lies before.
        if (s->own_count == 0 && tail && s->sample == 0) {
            page = j->pages[j->page_count - 1];
            pages_share(e->pages, page);
        } else if (!pages_take(e->pages, &page)) {
            if (preempt_youngest(e) == s)
                return 0;
            continue;
        }
        if (!sequence_add_page(s, page)) {
            pages_release(e->pages, page);
            return -1;
        }
    }
    return 1;
}

// The next tokens of a sample whose prompt is there: one while it decodes, as many as the batch has room for when it is
// computed again.
static int plan_sample(struct engine *e, struct job *j, struct sequence *s, uint32_t *budget)
{
    uint32_t pending = s->count - s->fed, take = pending > 1 ? VIREO_MIN(pending, *budget) : pending;
    if (take == 0)
        return 1;
    int got = grow(e, j, s, s->fed + take);
    if (got == 1) {
        s->take = take;
        *budget -= pending > 1 ? take : 0;
    }
    return got;
}

static void plan_prompt(struct job *j, uint32_t *budget)
{
    j->take = VIREO_MIN(*budget, j->prompt.count - j->computed);
    *budget -= j->take;
}

static bool plan_running(struct engine *e, uint32_t *budget)
{
    for (struct job *j = e->running; j; j = j->next) {
        j->take = 0;
        for (uint32_t i = 0; i < j->g.n; i++)
            j->sequences[i].take = 0;
    }
    for (struct job *j = e->running; j; j = j->next) {
        if (!job_is_active(j))
            continue;
        if (j->computed < j->prompt.count) {
            plan_prompt(j, budget);
            continue;
        }
        for (uint32_t i = 0; i < j->g.n; i++) {
            struct sequence *s = &j->sequences[i];
            if (!s->ended && s->active && plan_sample(e, j, s, budget) < 0)
                return false;
        }
    }
    return true;
}

// Pages for the whole prompt: those that the cache knows, then fresh ones, if `more` are left over. The last token is
// always computed: its hidden state gives the first draw.
static bool settle_prompt(struct engine *e, struct job *j, uint32_t more)
{
    uint32_t known = 0, most = (j->prompt.count - 1) / PAGE_TOKENS;
    while (known < most && pages_find(e->pages, j->keys[known], &j->pages[known]))
        known++;
    if (pages_available(e->pages) < j->page_count - known + more) {
        while (known > 0)
            pages_release(e->pages, j->pages[--known]);
        return false;
    }
    for (uint32_t i = known; i < j->page_count; i++)
        if (!pages_take(e->pages, &j->pages[i]))
            vireo_assert(!"available pages can be taken");
    j->resident = true;
    j->computed = known * PAGE_TOKENS;
    j->kept = known;
    return true;
}

// Preempted samples come back in order of arrival, each with all the pages it had and one more. False in *all: some
// still wait.
static bool resume(struct engine *e, uint32_t *budget, bool *all)
{
    *all = true;
    for (struct job *j = e->running; j; j = j->next)
        for (uint32_t i = 0; i < j->g.n; i++) {
            struct sequence *s = &j->sequences[i];
            if (s->ended || s->active)
                continue;
            const uint32_t wanted = sequence_pages(j, s->count);
            if (!j->resident && !settle_prompt(e, j, wanted)) {
                *all = false;
                return true;
            }
            if (j->computed < j->prompt.count && j->take == 0)
                plan_prompt(j, budget);
            if (pages_available(e->pages) < wanted) {
                *all = false;
                if (!job_is_active(j))
                    release_prompt(e, j);
                return true;
            }
            s->active = true;
            if (grow(e, j, s, s->count) < 0)
                return false;
            if (j->computed == j->prompt.count && plan_sample(e, j, s, budget) < 0)
                return false;
        }
    return true;
}

// Takes waiting generations, in order of arrival, as long as pages, sequences and the batch allow.
static void admit(struct engine *e, uint32_t *budget)
{
    while (e->waiting && *budget > 0) {
        struct job *j = e->waiting;
        // A page for each sample to begin with: who comes in only to be preempted has been computed for nothing.
        uint32_t first = j->g.sampling.max_tokens > 1 ? 1 : 0;
        if (e->stats.running + j->g.n > e->p.max_sequences ||
            !settle_prompt(e, j, e->running ? j->g.n * first : first))
            return;
        e->waiting = j->next;
        j->next = NULL;
        j->running = true;
        j->cached = j->computed;
        e->stats.cached_tokens += j->cached;
        for (uint32_t i = 0; i < j->g.n; i++)
            j->sequences[i].active = true;
        struct job **end = &e->running;
        while (*end)
            end = &(*end)->next;
        *end = j;
        e->stats.waiting--;
        e->stats.running += j->g.n;
        e->stats.prompt_tokens += j->prompt.count;
        plan_prompt(j, budget);
    }
}

bool schedule(struct engine *e, struct vireo_error *err)
{
    uint32_t budget = e->p.max_batch_tokens;
    bool all;
    if (!plan_running(e, &budget) || !resume(e, &budget, &all))
        return vireo_fail_memory(err, 64);
    if (all)
        admit(e, &budget);
    return true;
}
