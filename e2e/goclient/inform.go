package main

import (
	"bufio"
	"context"
	"os"
	"sort"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	metadataclient "k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

func newInformer(config *rest.Config) cache.SharedIndexInformer {
	if *metadata {
		client, err := metadataclient.NewForConfig(config)
		check(err)
		return metadatainformer.NewFilteredMetadataInformer(client, actors, *namespace, 0, cache.Indexers{}, nil).Informer()
	}
	client, err := dynamic.NewForConfig(config)
	check(err)
	return dynamicinformer.NewFilteredDynamicInformer(client, actors, *namespace, 0, cache.Indexers{}, nil).Informer()
}

func event(kind string, object any) {
	if last, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = last.Obj
	}
	out := brief(object.(metav1.Object))
	out["event"] = kind
	say(out)
}

func inform(ctx context.Context) {
	config, link := connect(true)
	informer := newInformer(config)
	check(informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) { say(problem(err)) }))
	handler, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) { event("add", object) },
		// An informer that lists again tells of objects that are as they were.
		UpdateFunc: func(before, after any) {
			if before.(metav1.Object).GetResourceVersion() != after.(metav1.Object).GetResourceVersion() {
				event("update", after)
			}
		},
		DeleteFunc: func(object any) { event("delete", object) },
	})
	check(err)
	go informer.Run(ctx.Done())
	cache.WaitForCacheSync(ctx.Done(), handler.HasSynced)
	say(map[string]any{"synced": true})
	input := bufio.NewScanner(os.Stdin)
	for input.Scan() {
		switch input.Text() {
		case "cut":
			link.cut(true)
		case "join":
			link.join()
		}
		say(map[string]any{"store": stored(informer), "rv": informer.LastSyncResourceVersion()})
	}
}

func stored(informer cache.SharedIndexInformer) []map[string]any {
	out := []map[string]any{}
	for _, object := range informer.GetStore().List() {
		out = append(out, brief(object.(metav1.Object)))
	}
	sort.Slice(out, func(i, j int) bool { return out[i]["name"].(string) < out[j]["name"].(string) })
	return out
}
