// grpcclient is a gRPC client as existing controllers are: grpc-go as it is by default, and one connection for good. It asks for actors,
// without credentials, until anything but "unavailable" is answered, and says each other answer than the last one, a line.
//
//	grpcclient HOST:PORT NAME CA-FILE
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/status"
)

const (
	call  = 5 * time.Second
	pause = 100 * time.Millisecond
)

// bytes are messages as they are on the wire; an empty one is an empty request.
type bytes struct{}

func (bytes) Name() string                       { return "proto" }
func (bytes) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (bytes) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil }

func main() {
	encoding.RegisterCodec(bytes{})
	tls, err := credentials.NewClientTLSFromFile(os.Args[3], os.Args[2])
	check(err)
	connection, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(tls))
	check(err)
	for last := codes.OK; ; time.Sleep(pause) {
		within, cancel := context.WithTimeout(context.Background(), call)
		err := connection.Invoke(within, "/ateapi.Control/ListActors", &[]byte{}, &[]byte{})
		cancel()
		code := status.Code(err)
		if code != last {
			fmt.Println(code, err)
		}
		if code != codes.Unavailable && code != codes.DeadlineExceeded {
			return
		}
		last = code
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "grpcclient:", err)
		os.Exit(1)
	}
}
