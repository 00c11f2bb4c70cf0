/* The least a TCP relay can do: two threads, an epoll each, no routes, limits, timers, counters or log.
 * What it costs is the kernel's share, below which no proxy of this design comes. It knows only small
 * messages (churn, pp*): where a socket's buffer is full it gives up.
 *
 *   bare half|full LISTEN_PORT BACKEND_PORT     half: passes a half-close on, as headgate does
 *                                               full: closes both sides at the first end, as nginx does
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

struct pair;
struct side { struct pair *pair; int fd; int readable, ended; };
struct pair { struct side client, server; int connected, closed; struct pair *next; };

static struct sockaddr_in listen_at, backend;
static int half;

static void die(const char *what) { perror(what); exit(1); }

static void watch(int epoll, struct side *side) {
    struct epoll_event event = {EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, {.ptr = side}};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, side->fd, &event)) die("epoll_ctl");
}

static void accept_all(int epoll, int listener, struct pair **pool) {
    for (;;) {
        struct sockaddr_in peer;
        socklen_t size = sizeof peer;
        int fd = accept4(listener, (struct sockaddr *)&peer, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) return;
        struct pair *pair = *pool;
        if (pair) *pool = pair->next;
        else pair = malloc(sizeof *pair);
        memset(pair, 0, sizeof *pair);
        pair->client = (struct side){pair, fd, 0, 0};
        watch(epoll, &pair->client);
        fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd < 0) die("socket");
        pair->server = (struct side){pair, fd, 0, 0};
        connect(fd, (struct sockaddr *)&backend, sizeof backend);
        watch(epoll, &pair->server);
    }
}

/* Passes on what `from` has; nonzero when the pair is finished. */
static int pump(struct side *from, struct side *to, int until_end) {
    static __thread char buffer[65536];
    while (from->readable && !from->ended) {
        ssize_t count = recv(from->fd, buffer, sizeof buffer, 0);
        from->readable = count > 0 && until_end;
        if (count > 0 && send(to->fd, buffer, count, MSG_NOSIGNAL) != count) die("send");
        if (count != 0) continue;
        from->ended = 1;
        if (!half || to->ended) return 1;
        shutdown(to->fd, SHUT_WR);
    }
    return 0;
}

__attribute__((noreturn)) static void *serve(void *unused) {
    (void)unused;
    int one = 1, epoll = epoll_create1(0);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(listener, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&listen_at, sizeof listen_at) || listen(listener, 4096)) die("listen");
    struct epoll_event events[256], event = {EPOLLIN | EPOLLET, {.ptr = NULL}};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    struct pair *pool = NULL, *closed = NULL;
    for (;;) {
        int count = epoll_wait(epoll, events, 256, 600000);
        for (int i = 0; i < count; i++) {
            struct side *side = events[i].data.ptr;
            if (!side) { accept_all(epoll, listener, &pool); continue; }
            struct pair *pair = side->pair;
            if (pair->closed) continue; /* earlier in this turn */
            int ends = events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR);
            if (ends || events[i].events & EPOLLIN) side->readable = 1;
            if (side == &pair->server && events[i].events & EPOLLOUT) pair->connected = 1;
            if (!pair->connected) continue;
            if (pump(&pair->client, &pair->server, side == &pair->client && ends)
                || pump(&pair->server, &pair->client, side == &pair->server && ends)) {
                close(pair->client.fd);
                close(pair->server.fd);
                pair->closed = 1;
                pair->next = closed;
                closed = pair;
            }
        }
        while (closed) {
            struct pair *pair = closed;
            closed = pair->next;
            pair->next = pool;
            pool = pair;
        }
    }
}

static struct sockaddr_in loopback(const char *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

int main(int count, char **arguments) {
    if (count != 4) { fprintf(stderr, "usage: bare half|full LISTEN_PORT BACKEND_PORT\n"); return 2; }
    half = !strcmp(arguments[1], "half");
    listen_at = loopback(arguments[2]);
    backend = loopback(arguments[3]);
    pthread_t other;
    if (pthread_create(&other, NULL, serve, NULL)) die("pthread_create");
    serve(NULL);
}
