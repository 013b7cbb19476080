// applycases writes src/apiserver/apply/cases.json: sequences of applies and updates on one object, random ones and a
// few chosen ones, and what Kubernetes' own FieldManager makes of them. Times are left out; those of a scenario fall into one second.
//
//	cd e2e/applycases && go run . > ../../src/apiserver/apply/cases.json
package main

import (
	"encoding/json"
	"fmt"
	"math/rand"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/structured-merge-diff/v4/fieldpath"
)

const (
	seed      = 4
	scenarios = 30
	steps     = 8
	version   = "example.org/v1"
)

const schemaText = `{
  "type": "object",
  "x-kubernetes-group-version-kind": [{"group": "example.org", "version": "v1", "kind": "Thing"}],
  "properties": {
    "apiVersion": {"type": "string"}, "kind": {"type": "string"},
    "metadata": {"type": "object", "properties": {
      "name": {"type": "string"}, "uid": {"type": "string"}, "resourceVersion": {"type": "string"},
      "labels": {"type": "object", "additionalProperties": {"type": "string"}},
      "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
      "finalizers": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
      "managedFields": {"type": "array", "x-kubernetes-list-type": "atomic", "items": {
        "type": "object", "x-kubernetes-preserve-unknown-fields": true}}}},
    "spec": {"type": "object", "properties": {
      "number": {"type": "integer"}, "text": {"type": "string"}, "flag": {"type": "boolean"},
      "port": {"x-kubernetes-int-or-string": true},
      "nested": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}},
      "map": {"type": "object", "additionalProperties": {"type": "integer"}},
      "maps": {"type": "object", "additionalProperties": {"type": "object", "properties": {
        "a": {"type": "string"}, "b": {"type": "string"}}}},
      "whole": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": {"type": "string"}},
      "atoms": {"type": "array", "items": {"type": "string"}},
      "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
      "numbers": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "integer"}},
      "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name", "port"],
        "items": {"type": "object", "required": ["name"], "properties": {
          "name": {"type": "string"}, "port": {"type": "integer", "default": 80},
          "a": {"type": "string"}, "nested": {"type": "object", "properties": {"x": {"type": "integer"}}},
          "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}}}},
      "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}},
    "status": {"type": "object", "properties": {"phase": {"type": "string"}, "count": {"type": "integer"}}}}}`

// One step, what it was given and what came of it.
type step struct {
	Apply       bool           `json:"apply"`
	Manager     string         `json:"manager"`
	Subresource string         `json:"subresource,omitempty"`
	Force       bool           `json:"force,omitempty"`
	Given       map[string]any `json:"given"`
	Object      map[string]any `json:"object,omitempty"`
	Error       string         `json:"error,omitempty"`
}

// What "one" applies, "edit" updates to, and "two" applies four times, as the specs of a thing. Applying nothing again
// may remove what the first time left.
var again = [][3]string{
	{`{"map": {"a": 0}}`, `{"map": {}, "set": []}`, `{}`},
	{`{"free": {"a": null}}`, `{"free": {}, "set": []}`, `{}`},
	{`{"free": {"a": "x"}, "map": {"a": 0}}`, `{"free": {}, "map": {}, "list": [], "set": []}`, `{}`},
	// Not so where somebody owns the map, ...
	{`{"map": {}}`, `{"map": {}, "set": []}`, `{}`},
	// ... where there is no map, where there is no list, where something is not empty, ...
	{`{}`, `{"set": []}`, `{}`},
	{`{"map": {"a": 0}}`, `{"map": {}}`, `{}`},
	{`{"map": {"a": 0}}`, `{"map": {}, "set": [], "text": "x"}`, `{}`},
	// ... or where it applies something.
	{`{"map": {"a": 0}}`, `{"map": {}, "set": []}`, `{"list": []}`},
	{`{"map": {"a": 0}}`, `{"map": {}, "set": []}`, `{"map": {}}`},
}

type identity struct{}

func (identity) Convert(in, out, context any) error { return fmt.Errorf("not used") }
func (identity) ConvertToVersion(in runtime.Object, _ runtime.GroupVersioner) (runtime.Object, error) {
	return in, nil
}
func (identity) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}
func (identity) Default(runtime.Object) {}
func (identity) New(schema.GroupVersionKind) (runtime.Object, error) {
	return empty(), nil
}

func empty() *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": version, "kind": "Thing"}}
}

type gen struct{ *rand.Rand }

func (g gen) some(p float64) bool      { return g.Float64() < p }
func (g gen) text() any                { return []string{"x", "y", "z"}[g.Intn(3)] }
func (g gen) key() string              { return []string{"a", "b", "c"}[g.Intn(3)] }
func (g gen) number() any              { return int64(g.Intn(3)) }
func (g gen) strings(twice bool) []any { return g.items(twice, func() any { return g.text() }) }

// Items without repetition, unless asked for.
func (g gen) items(twice bool, make func() any) []any {
	out, seen := []any{}, map[string]bool{}
	for i := g.Intn(4); i > 0; i-- {
		item := make()
		name, _ := json.Marshal(item)
		if m, ok := item.(map[string]any); ok {
			port, ok := m["port"]
			if !ok {
				port = 80
			}
			name = []byte(fmt.Sprint(m["name"], port))
		}
		if !seen[string(name)] || twice && g.some(0.3) {
			out = append(out, item)
		}
		seen[string(name)] = true
	}
	return out
}

func (g gen) mapOf(value func() any) map[string]any {
	out := map[string]any{}
	for i := g.Intn(3); i > 0; i-- {
		out[g.key()] = value()
	}
	return out
}

func (g gen) free(depth int) any {
	switch n := g.Intn(6); {
	case n == 0 && depth > 0:
		return g.mapOf(func() any { return g.free(depth - 1) })
	case n == 1 && depth > 0:
		return []any{g.free(depth - 1)}
	case n == 2:
		return g.number()
	case n == 3:
		return nil
	default:
		return g.text()
	}
}

func (g gen) listItem() any {
	item := map[string]any{"name": g.text()}
	if g.some(0.5) {
		item["port"] = []int64{80, 9, 443}[g.Intn(3)]
	}
	if g.some(0.6) {
		item["a"] = g.text()
	}
	if g.some(0.3) {
		item["nested"] = map[string]any{"x": g.number()}
	}
	if g.some(0.3) {
		item["tags"] = g.strings(false)
	}
	return item
}

func (g gen) object(twice bool) map[string]any {
	spec, meta := map[string]any{}, map[string]any{"name": "thing"}
	ab := func() any { return g.mapOf(g.text) }
	// In a fixed order, so that a seed says everything.
	put := func(name string, value func() any) {
		if g.some(0.45) {
			spec[name] = value()
		}
	}
	put("number", g.number)
	put("text", g.text)
	put("flag", func() any { return g.some(0.5) })
	put("port", func() any {
		if g.some(0.5) {
			return g.text()
		}
		return g.number()
	})
	structure := func() any {
		out := map[string]any{}
		for _, name := range []string{"a", "b"} {
			if g.some(0.5) {
				out[name] = g.text()
			}
		}
		return out
	}
	put("nested", structure)
	put("map", func() any { return g.mapOf(g.number) })
	put("maps", func() any { return g.mapOf(structure) })
	put("whole", ab)
	put("atoms", func() any { return g.strings(true) })
	put("set", func() any { return g.strings(twice) })
	put("numbers", func() any { return g.items(twice, g.number) })
	put("list", func() any { return g.items(twice, g.listItem) })
	put("free", func() any { return g.mapOf(func() any { return g.free(2) }) })
	if g.some(0.5) {
		meta["labels"] = ab()
	}
	if g.some(0.3) {
		meta["finalizers"] = g.strings(false)
	}
	out := map[string]any{"apiVersion": version, "kind": "Thing", "metadata": meta}
	if g.some(0.9) {
		out["spec"] = spec
	}
	if g.some(0.3) {
		out["status"] = map[string]any{"phase": g.text(), "count": g.number()}
	}
	return out
}

func managers(tc managedfields.TypeConverter) map[string]*managedfields.FieldManager {
	kind := schema.GroupVersionKind{Group: "example.org", Version: "v1", Kind: "Thing"}
	out := map[string]*managedfields.FieldManager{}
	for sub, reset := range map[string]string{"": "status", "status": "spec"} {
		filter := fieldpath.NewExcludeFilterSetMap(map[fieldpath.APIVersion]*fieldpath.Set{
			version: fieldpath.NewSet(fieldpath.MakePathOrDie(reset)),
		})
		fm, err := managedfields.NewDefaultCRDFieldManager(
			tc, identity{}, identity{}, identity{}, kind, kind.GroupVersion(), sub, filter)
		check(err)
		out[sub] = fm
	}
	return out
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func (g gen) step(fms map[string]*managedfields.FieldManager, live *unstructured.Unstructured, first bool) (step, *unstructured.Unstructured) {
	s := step{Manager: []string{"one", "two", "three", "kubectl"}[g.Intn(4)], Apply: g.some(0.6), Force: g.some(0.4)}
	if !first && g.some(0.1) {
		s.Subresource = "status"
	}
	s.Given = g.object(!s.Apply)
	if !s.Apply && g.some(0.2) {
		s.Manager = fmt.Sprintf("updater-%d", g.Intn(20))
	}
	s.Force = s.Force && s.Apply
	meta := s.Given["metadata"].(map[string]any)
	switch {
	case !s.Apply && g.some(0.2):
		// As kubectl applies without server-side apply.
		s.Manager = "kubectl-client-side-apply"
		text, err := json.Marshal(s.Given)
		check(err)
		meta["annotations"] = map[string]any{"kubectl.kubernetes.io/last-applied-configuration": string(text)}
	case !s.Apply && g.some(0.05):
		meta["managedFields"] = []any{map[string]any{}}
	case !s.Apply && g.some(0.05):
		meta["managedFields"] = []any{map[string]any{
			"manager": "given", "operation": "Apply", "apiVersion": version, "fieldsType": "FieldsV1",
			"fieldsV1": map[string]any{"f:spec": map[string]any{"f:text": map[string]any{}, "f:nested": map[string]any{".": map[string]any{}}}},
		}}
	}
	return s.run(fms, live)
}

func (s step) run(fms map[string]*managedfields.FieldManager, live *unstructured.Unstructured) (step, *unstructured.Unstructured) {
	given := (&unstructured.Unstructured{Object: s.Given}).DeepCopy()
	if s.Apply {
		out, err := fms[s.Subresource].Apply(live.DeepCopy(), given, s.Manager, s.Force)
		if err != nil {
			s.Error = err.Error()
			return s, live
		}
		return s, out.(*unstructured.Unstructured)
	}
	return s, fms[s.Subresource].UpdateNoErrors(live.DeepCopy(), given, s.Manager).(*unstructured.Unstructured)
}

func (g gen) scenario(fms map[string]*managedfields.FieldManager) []step {
	live, out := empty(), []step{}
	for i := 0; i < steps; i++ {
		s, next := g.step(fms, live, i == 0)
		s, live = s.record(next)
		out = append(out, s)
	}
	return out
}

func appliedAgain(fms map[string]*managedfields.FieldManager, specs [3]string) []step {
	live, out := empty(), []step{}
	for i, by := range []string{"one", "edit", "two", "two", "two", "two"} {
		var given unstructured.Unstructured
		text := fmt.Sprintf(`{"apiVersion": %q, "kind": "Thing", "metadata": {"name": "thing"}, "spec": %s}`, version, specs[min(i, 2)])
		check(given.UnmarshalJSON([]byte(text)))
		s, next := step{Manager: by, Apply: by != "edit", Force: i == 0 || i == 2, Given: given.Object}.run(fms, live)
		s, live = s.record(next)
		out = append(out, s)
	}
	return out
}

func (s step) record(next *unstructured.Unstructured) (step, *unstructured.Unstructured) {
	if s.Error == "" {
		next = next.DeepCopy()
		s.Object = withoutTimes(next).Object
		next.SetUID("u")
	}
	return s, next
}

func withoutTimes(object *unstructured.Unstructured) *unstructured.Unstructured {
	object = object.DeepCopy()
	all, found, err := unstructured.NestedSlice(object.Object, "metadata", "managedFields")
	check(err)
	if found {
		for _, entry := range all {
			delete(entry.(map[string]any), "time")
		}
		check(unstructured.SetNestedSlice(object.Object, all, "metadata", "managedFields"))
	}
	return object
}

func main() {
	var s spec.Schema
	check(json.Unmarshal([]byte(schemaText), &s))
	tc, err := managedfields.NewTypeConverter(map[string]*spec.Schema{"thing": &s}, false)
	check(err)
	fms := managers(tc)
	runs := []func() []step{}
	for i := int64(0); i < scenarios; i++ {
		runs = append(runs, func() []step { return gen{rand.New(rand.NewSource(seed + i))}.scenario(fms) })
	}
	for _, specs := range again {
		runs = append(runs, func() []step { return appliedAgain(fms, specs) })
	}
	fmt.Printf("{\"schema\": %s,\n\"scenarios\": [\n", schemaText)
	for i, run := range runs {
		end := ","
		if i == len(runs)-1 {
			end = "]}"
		}
		text, err := json.Marshal(withinOneSecond(run))
		check(err)
		fmt.Printf("%s%s\n", text, end)
	}
}

// Entries are ordered by time: a scenario that began in another second is run again.
func withinOneSecond(run func() []step) []step {
	for {
		start := time.Now().Unix()
		out := run()
		if time.Now().Unix() == start {
			return out
		}
	}
}
