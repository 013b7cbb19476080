// goclient uses the aggregated API as controllers do, by client-go, and says what it sees: a JSON object a line.
//
//	goclient do              what its input asks of the dynamic client, one after another
//	goclient page            a list by client-go's pager; goes on to the next page at each line of its input
//	goclient inform          an informer; its input asks for its store, cuts its connections, and joins it again
//	goclient watch           a watch
//	goclient resume          watchers that are cut off again and again and go on from the last version they saw
//	goclient reconnect       watches one after another
//
// KUBECONFIG and -n say where. With KUBE_FEATURE_WatchListClient=true, client-go's own switch, informers ask for
// watch lists. It ends with its input.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

var (
	actors    = schema.GroupVersionResource{Group: "runtime.ate.dev", Version: "v1alpha1", Resource: "actors"}
	namespace = flag.String("n", "default", "namespace")
	version   = flag.String("rv", "", "resource version to begin from")
	limit     = flag.Int64("limit", 0, "objects of a page")
	metadata  = flag.Bool("metadata", false, "only metadata")
	watchers  = flag.Int("watchers", 1, "how many watch")
	retrying  = flag.Int("retrying", 0, "how many of them are client-go's RetryWatcher")
	times     = flag.Int("times", 1, "how many watches")
)

func main() {
	commands := map[string]func(context.Context){
		"do": do, "page": page, "inform": inform, "watch": follow, "resume": resume, "reconnect": reconnect,
	}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "goclient: do, page, inform, watch, resume or reconnect")
		os.Exit(2)
	}
	check(flag.CommandLine.Parse(os.Args[2:]))
	commands[os.Args[1]](context.Background())
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "goclient:", err)
		os.Exit(1)
	}
}

var output sync.Mutex

// say writes a line.
func say(what map[string]any) {
	line, err := json.Marshal(what)
	check(err)
	output.Lock()
	defer output.Unlock()
	_, err = os.Stdout.Write(append(line, '\n'))
	check(err)
}

// problem is an error as the server said it, or as text.
func problem(err error) map[string]any {
	if status, ok := err.(apierrors.APIStatus); ok {
		return map[string]any{"error": status.Status()}
	}
	return map[string]any{"error": map[string]any{"message": err.Error()}}
}

// A link is a client's way to the server, that can be cut.
type link struct {
	sync.Mutex
	down        bool
	connections map[net.Conn]bool
}

func (l *link) dial(ctx context.Context, network, address string) (net.Conn, error) {
	l.Lock()
	down := l.down
	l.Unlock()
	if down {
		return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	connection, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	l.Lock()
	defer l.Unlock()
	l.connections[connection] = true
	return connection, nil
}

// cut closes its connections; no other is made while it is down.
func (l *link) cut(down bool) {
	l.Lock()
	defer l.Unlock()
	l.down = down
	for connection := range l.connections {
		connection.Close()
		delete(l.connections, connection)
	}
}

func (l *link) join() {
	l.Lock()
	defer l.Unlock()
	l.down = false
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return f(request) }

// connect is a configuration with a link of its own. Each request is said with its answer, if so wanted.
func connect(loud bool) (*rest.Config, *link) {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	check(err)
	config.QPS = -1 // the tests are in a hurry
	l := &link{connections: map[net.Conn]bool{}}
	config.Dial = l.dial
	if loud {
		config.Wrap(func(inner http.RoundTripper) http.RoundTripper {
			return roundTripper(func(request *http.Request) (*http.Response, error) {
				response, err := inner.RoundTrip(request)
				if err == nil {
					query := map[string]any{}
					for key, values := range request.URL.Query() {
						query[key] = values[0]
					}
					say(map[string]any{"request": request.Method, "query": query, "code": response.StatusCode,
						"accept": request.Header.Get("Accept"), "type": response.Header.Get("Content-Type")})
				}
				return response, err
			})
		})
	}
	return config, l
}

func dynamicClient(config *rest.Config) dynamic.ResourceInterface {
	client, err := dynamic.NewForConfig(config)
	check(err)
	return client.Resource(actors).Namespace(*namespace)
}

// brief is what tests compare of an object.
func brief(object metav1.Object) map[string]any {
	out := map[string]any{"name": object.GetName(), "rv": object.GetResourceVersion(), "uid": object.GetUID()}
	if labels := object.GetLabels(); len(labels) > 0 {
		out["labels"] = labels
	}
	return out
}
