package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/pager"
)

// An order is what the input asks of the dynamic client.
type order struct {
	Verb    string
	Name    string
	Object  *unstructured.Unstructured
	Patch   json.RawMessage
	Type    types.PatchType
	Options json.RawMessage
	List    metav1.ListOptions
}

func do(ctx context.Context) {
	config, _ := connect(false)
	client, input := dynamicClient(config), json.NewDecoder(os.Stdin)
	for {
		var o order
		err := input.Decode(&o)
		if errors.Is(err, io.EOF) {
			return
		}
		check(err)
		result, err := o.run(ctx, client)
		switch {
		case err != nil:
			say(problem(err))
		case result == nil:
			say(map[string]any{})
		default:
			say(map[string]any{"result": result})
		}
	}
}

// options reads the order's options.
func options[T any](o order) (out T) {
	if len(o.Options) > 0 {
		check(json.Unmarshal(o.Options, &out))
	}
	return
}

func (o order) run(ctx context.Context, client dynamic.ResourceInterface) (any, error) {
	var one *unstructured.Unstructured
	var err error
	switch o.Verb {
	case "create":
		one, err = client.Create(ctx, o.Object, options[metav1.CreateOptions](o))
	case "get":
		one, err = client.Get(ctx, o.Name, options[metav1.GetOptions](o))
	case "update":
		one, err = client.Update(ctx, o.Object, options[metav1.UpdateOptions](o))
	case "patch":
		one, err = client.Patch(ctx, o.Name, o.Type, o.Patch, options[metav1.PatchOptions](o))
	case "apply":
		one, err = client.Apply(ctx, o.Name, o.Object, options[metav1.ApplyOptions](o))
	case "list":
		list, err := client.List(ctx, o.List)
		if err != nil {
			return nil, err
		}
		return shown(list), nil
	case "watch":
		watch, err := client.Watch(ctx, o.List)
		if err != nil {
			return nil, err
		}
		watch.Stop()
		return nil, nil
	case "delete":
		return nil, client.Delete(ctx, o.Name, options[metav1.DeleteOptions](o))
	case "deletecollection":
		return nil, client.DeleteCollection(ctx, options[metav1.DeleteOptions](o), o.List)
	default:
		err = errors.New("no verb " + o.Verb)
	}
	if err != nil {
		return nil, err
	}
	return one.Object, nil
}

// shown is what tests compare of a list.
func shown(list *unstructured.UnstructuredList) map[string]any {
	items := []any{}
	for i := range list.Items {
		items = append(items, brief(&list.Items[i]))
	}
	out := map[string]any{"items": items, "rv": list.GetResourceVersion(), "more": list.GetContinue() != ""}
	if remaining := list.GetRemainingItemCount(); remaining != nil {
		out["remaining"] = *remaining
	}
	return out
}

func page(ctx context.Context) {
	config, _ := connect(false)
	client, input := dynamicClient(config), bufio.NewScanner(os.Stdin)
	pages := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		list, err := client.List(ctx, options)
		if err != nil {
			say(problem(err))
			return nil, err
		}
		say(map[string]any{"page": shown(list)})
		if !input.Scan() {
			os.Exit(0)
		}
		return list, nil
	})
	pages.PageSize, pages.FullListIfExpired = *limit, false
	_, paged, err := pages.List(ctx, metav1.ListOptions{ResourceVersion: *version})
	check(err)
	say(map[string]any{"end": true, "paged": paged})
}
