package main

import (
	"context"
	"io"
	"math/rand"
	"os"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
	retry "k8s.io/client-go/tools/watch"
)

const (
	// A watcher sees so many events before it is cut off, on average.
	events = 150
	// Between two attempts to watch.
	pause = 50 * time.Millisecond
)

// endWithInput ends the program when nobody listens any more.
func endWithInput() {
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// from are the options of a watch.
func from(rv string) metav1.ListOptions {
	return metav1.ListOptions{ResourceVersion: rv, AllowWatchBookmarks: true}
}

// seen says an event; it returns the event's version, or an error.
func seen(number int, e watch.Event) (string, error) {
	if e.Type == watch.Error {
		return "", apierrors.FromObject(e.Object)
	}
	object := e.Object.(metav1.Object)
	out := brief(object)
	out["watcher"], out["event"] = number, e.Type
	if e.Type != watch.Bookmark {
		say(out)
	}
	return object.GetResourceVersion(), nil
}

func follow(ctx context.Context) {
	config, _ := connect(false)
	w, err := dynamicClient(config).Watch(ctx, from(*version))
	if err != nil {
		say(problem(err))
		return
	}
	say(map[string]any{"watching": true})
	go endWithInput()
	for e := range w.ResultChan() {
		if _, err := seen(0, e); err != nil {
			say(problem(err))
		}
	}
	say(map[string]any{"end": true})
}

var restarts atomic.Int64

func resume(ctx context.Context) {
	for number := range *watchers {
		config, link := connect(false)
		w := &watcher{number, dynamicClient(config), link, *version}
		if number < *retrying {
			go w.retry(ctx)
		} else {
			go w.run(ctx)
		}
	}
	say(map[string]any{"watching": true})
	io.Copy(io.Discard, os.Stdin)
	say(map[string]any{"restarts": restarts.Load()})
}

// A watcher goes on from the last version that it saw.
type watcher struct {
	number int
	client dynamic.ResourceInterface
	link   *link
	at     string
}

// run watches again and again. What came but was not looked at when the watch is cut comes again.
func (w *watcher) run(ctx context.Context) {
	for ; ; restarts.Add(1) {
		stream, err := w.client.Watch(ctx, from(w.at))
		if err == nil {
			err = w.take(stream, 1+rand.Intn(2*events))
			stream.Stop()
		}
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			say(problem(err))
			return
		}
		if err != nil {
			time.Sleep(pause)
		}
	}
}

// take looks at some events, then leaves: by itself, or as its connection breaks.
func (w *watcher) take(stream watch.Interface, count int) error {
	for e := range stream.ResultChan() {
		at, err := seen(w.number, e)
		if err != nil {
			return err
		}
		w.at = at
		if count--; count == 0 {
			if rand.Intn(2) == 0 {
				w.link.cut(false)
			}
			return nil
		}
	}
	return io.EOF
}

// retry leaves all of that to client-go; only its connection breaks now and then.
func (w *watcher) retry(ctx context.Context) {
	stream, err := retry.NewRetryWatcherWithContext(ctx, w.at, cache.ToWatcherWithContext(&cache.ListWatch{
		WatchFunc: func(options metav1.ListOptions) (watch.Interface, error) { return w.client.Watch(ctx, options) },
	}))
	check(err)
	left := events
	for e := range stream.ResultChan() {
		if _, err := seen(w.number, e); err != nil {
			say(problem(err))
		}
		if left--; left == 0 {
			left = 1 + rand.Intn(2*events)
			restarts.Add(1)
			w.link.cut(false)
		}
	}
	say(map[string]any{"error": map[string]any{"message": "the RetryWatcher gave up"}})
}

// reconnect watches from the beginning, sees an event, and leaves.
func reconnect(ctx context.Context) {
	config, _ := connect(false)
	client := dynamicClient(config)
	for range *times {
		stream, err := client.Watch(ctx, from(""))
		check(err)
		if _, err := seen(0, <-stream.ResultChan()); err != nil {
			check(err)
		}
		stream.Stop()
	}
	say(map[string]any{"end": true})
}
