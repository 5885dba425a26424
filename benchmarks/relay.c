/*
 * A minimal TCP relay for benchmarks/proxy.py, which shows the limit of a proxy in user space. It accepts, connects and copies, with epoll.
 * It has no API, toxics, counters or half-close, and it waits for a receiver that is slower than its sender.
 *
 *     cc -O2 -o relay relay.c && ./relay PORT UPSTREAM_PORT        (both on 127.0.0.1)
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST = 65536, EVENTS = 64 };

static int peer_of[MOST];
static char buffer[262144];

static struct sockaddr_in on_loopback(const char *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static void watch(int poller, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
}

static void pair(int poller, int listener, const struct sockaddr_in *upstream) {
    int on = 1, client = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    if (client < 0)
        return;
    int server = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, IPPROTO_TCP);
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    connect(server, (const struct sockaddr *)upstream, sizeof *upstream);
    peer_of[client] = server;
    peer_of[server] = client;
    watch(poller, client);
    watch(poller, server);
}

static void copy(int from) {
    int to = peer_of[from];
    if (!to)
        return; /* closed in the same round */
    ssize_t size = recv(from, buffer, sizeof buffer, 0), done = 0;
    if (size < 0 && errno == EAGAIN)
        return;
    while (done < size) {
        ssize_t sent = send(to, buffer + done, size - done, MSG_NOSIGNAL);
        if (sent > 0) {
            done += sent;
        } else if (errno == EAGAIN) {
            struct pollfd room = {.fd = to, .events = POLLOUT};
            poll(&room, 1, -1);
        } else {
            size = 0;
        }
    }
    if (size <= 0) {
        peer_of[from] = peer_of[to] = 0;
        close(from);
        close(to);
    }
}

int main(int count, char **words) {
    if (count != 3)
        return 2;
    int on = 1, listener = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP), poller = epoll_create1(0);
    struct sockaddr_in here = on_loopback(words[1]), upstream = on_loopback(words[2]);
    struct epoll_event events[EVENTS];
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 1024))
        return 1;
    watch(poller, listener);
    for (;;) {
        int ready = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.fd == listener)
                pair(poller, listener, &upstream);
            else
                copy(events[i].data.fd);
        }
    }
}
