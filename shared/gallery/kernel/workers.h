/* Worker threads: kept between searches, never on the caller's processor. */

#include <signal.h>
#ifdef __linux__
#include <sched.h>
#endif

typedef void (*Task)(void *);
static struct {
    pthread_mutex_t lock;
    pthread_cond_t wake, idle;
    pthread_t threads[64];
    int started, wanted, active;
    Task task;
    void *argument;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER,
          .idle = PTHREAD_COND_INITIALIZER};

static void *work(void *unused) {
    (void)unused;
    pthread_mutex_lock(&pool.lock);
    for (;;) {
        while (!pool.wanted) pthread_cond_wait(&pool.wake, &pool.lock);
        pool.wanted--;
        pool.active++;
        Task task = pool.task;
        void *argument = pool.argument;
        pthread_mutex_unlock(&pool.lock);
        task(argument);
        pthread_mutex_lock(&pool.lock);
        if (!--pool.active) pthread_cond_signal(&pool.idle);
    }
    return NULL;
}

static void forget_workers(void) { /* in the child of a fork no worker lives on */
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.wake, NULL);
    pthread_cond_init(&pool.idle, NULL);
    pool.started = pool.wanted = pool.active = 0;
    pool.task = NULL;
}

/* A woken worker tends to land where it slept last, which may be where the caller runs now. */
static void keep_off_this_processor(int workers) {
#ifdef __linux__
    cpu_set_t allowed;
    int here = sched_getcpu();
    if (here < 0 || sched_getaffinity(0, sizeof allowed, &allowed) || CPU_COUNT(&allowed) < 2) return;
    CPU_CLR((size_t)here, &allowed);
    for (int i = 0; i < workers; i++)
        pthread_setaffinity_np(pool.threads[i], sizeof allowed, &allowed);
#else
    (void)workers;
#endif
}

/* Workers take no signals: those are for the interpreter's own threads. */
static void start_workers(int count) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (pool.started < count &&
           !pthread_create(&pool.threads[pool.started], NULL, work, NULL))
        pool.started++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Runs the task in the caller and in up to threads - 1 workers; returns when all have ended. The
 * task shares its work out itself, so it is right with any number; a busy pool means one. */
static void in_parallel(Task task, void *argument, int threads) {
    int helpers = threads - 1 > 64 ? 64 : threads - 1, mine = 0;
    if (helpers > 0) {
        pthread_mutex_lock(&pool.lock);
        if (!pool.task) {
            start_workers(helpers);
            if (helpers > pool.started) helpers = pool.started;
            pool.task = task;
            pool.argument = argument;
            pool.wanted = helpers;
            mine = 1;
            keep_off_this_processor(helpers);
            pthread_cond_broadcast(&pool.wake);
        }
        pthread_mutex_unlock(&pool.lock);
    }
    task(argument);
    if (!mine) return;
    pthread_mutex_lock(&pool.lock);
    pool.wanted = 0; /* who has not come by now is not needed */
    while (pool.active) pthread_cond_wait(&pool.idle, &pool.lock);
    pool.task = NULL;
    pthread_mutex_unlock(&pool.lock);
}

