// The actor of the tests: a small HTTP server whose answers show whether memory, files, environment and
// identity are what they should be after a checkpoint and a restore. Built static; its rootfs is this binary alone.
//
//	GET  /                 counts in memory and in /data/counter; answers both, actor id and generation
//	GET  /healthz          200, or 503 for the first READY_DELAY_MS milliseconds
//	GET  /env              the environment
//	GET  /mem?mb=N         holds N MiB of incompressible memory; without mb: what is held, and its checksum
//	GET  /files?path=P     a file's content, or a directory's entries, one a line
//	PUT  /files?path=P     writes the body to a file, making its directory
//	POST /echo             sends the body back as it arrives (also on any other path)
//	GET  /stream?n=N&ms=M  N lines, M milliseconds apart
//	GET  /log?bytes=N      writes N bytes to stdout, in lines; with line=T the line T, before them
//	GET  /dial?addr=A      opens a TCP connection to A and says how that went
//	GET  /exit?code=C      ends the process
//
// It listens on 0.0.0.0:$PORT, 8080 by default.
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	counterFile = "/data/counter"
	dialTimeout = 3 * time.Second
	maxMemMiB   = 4096
)

type server struct {
	started time.Time
	mu      sync.Mutex
	count   int
	held    []byte
}

func main() {
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	s := &server{started: time.Now()}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.counter)
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /env", env)
	mux.HandleFunc("GET /mem", s.mem)
	mux.HandleFunc("GET /files", readFiles)
	mux.HandleFunc("PUT /files", writeFile)
	mux.HandleFunc("GET /stream", stream)
	mux.HandleFunc("GET /log", writeLog)
	mux.HandleFunc("GET /dial", dial)
	mux.HandleFunc("GET /exit", exit)
	mux.HandleFunc("POST /", echo)
	log.Printf("listening on %s", port)
	log.Fatal(http.ListenAndServe("0.0.0.0:"+port, mux))
}

// counter answers {"memory":N,"file":N,"actor":"...","generation":"..."}.
func (s *server) counter(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	onDisk, err := countOnDisk()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, map[string]any{
		"memory":     s.count,
		"file":       onDisk,
		"actor":      readOrEmpty("/run/ate/actor-id"),
		"generation": readOrEmpty("/run/ate/generation"),
	})
}

func countOnDisk() (int, error) {
	if err := os.MkdirAll(filepath.Dir(counterFile), 0o755); err != nil {
		return 0, err
	}
	old, err := os.ReadFile(counterFile)
	if err != nil && !os.IsNotExist(err) {
		return 0, err
	}
	n := 0
	if len(old) > 0 {
		if n, err = strconv.Atoi(string(old)); err != nil {
			return 0, err
		}
	}
	n++
	return n, os.WriteFile(counterFile, []byte(strconv.Itoa(n)), 0o644)
}

func (s *server) healthz(w http.ResponseWriter, r *http.Request) {
	delay, _ := strconv.Atoi(os.Getenv("READY_DELAY_MS"))
	if time.Since(s.started) < time.Duration(delay)*time.Millisecond {
		http.Error(w, "not yet", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

func env(w http.ResponseWriter, r *http.Request) {
	vars := os.Environ()
	sort.Strings(vars)
	for _, v := range vars {
		fmt.Fprintln(w, v)
	}
}

// mem answers {"mb":N,"sha256":"..."}.
func (s *server) mem(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q := r.URL.Query().Get("mb"); q != "" {
		mb, err := strconv.Atoi(q)
		if err != nil || mb < 0 || mb > maxMemMiB {
			http.Error(w, "mb: a number from 0 to "+strconv.Itoa(maxMemMiB), http.StatusBadRequest)
			return
		}
		s.held = make([]byte, mb<<20)
		var seed [32]byte
		for i := range seed {
			seed[i] = byte(rand.Uint32())
		}
		if _, err := rand.NewChaCha8(seed).Read(s.held); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	sum := sha256.Sum256(s.held)
	writeJSON(w, map[string]any{"mb": len(s.held) >> 20, "sha256": hex.EncodeToString(sum[:])})
}

func readFiles(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Query().Get("path")
	info, err := os.Stat(path)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	if !info.IsDir() {
		// Not ServeFile: files of /proc and devices have no size.
		f, err := os.Open(path)
		if err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		defer f.Close()
		io.Copy(w, f)
		return
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	for _, e := range entries {
		name := e.Name()
		if e.IsDir() {
			name += "/"
		}
		fmt.Fprintln(w, name)
	}
}

func writeFile(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Query().Get("path")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	f, err := os.Create(path)
	if err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	n, err := io.Copy(f, r.Body)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		// Who still sends does not listen.
		io.Copy(io.Discard, r.Body)
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprintln(w, n)
}

func echo(w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	_ = rc.EnableFullDuplex()
	if t := r.Header.Get("Content-Type"); t != "" {
		w.Header().Set("Content-Type", t)
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Body.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return
			}
			_ = rc.Flush()
		}
		if err != nil {
			return
		}
	}
}

func stream(w http.ResponseWriter, r *http.Request) {
	n, _ := strconv.Atoi(r.URL.Query().Get("n"))
	ms, _ := strconv.Atoi(r.URL.Query().Get("ms"))
	rc := http.NewResponseController(w)
	for i := 0; i < n; i++ {
		if _, err := fmt.Fprintf(w, "line %d\n", i); err != nil {
			return
		}
		_ = rc.Flush()
		select {
		case <-r.Context().Done():
			return
		case <-time.After(time.Duration(ms) * time.Millisecond):
		}
	}
}

func writeLog(w http.ResponseWriter, r *http.Request) {
	left, _ := strconv.Atoi(r.URL.Query().Get("bytes"))
	if text := r.URL.Query().Get("line"); text != "" {
		fmt.Println(text)
	}
	line := strings.Repeat("x", 99) + "\n"
	for left > 0 {
		n, err := os.Stdout.WriteString(line[max(0, len(line)-left):])
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		left -= n
	}
	fmt.Fprintln(w, "ok")
}

func dial(w http.ResponseWriter, r *http.Request) {
	conn, err := net.DialTimeout("tcp", r.URL.Query().Get("addr"), dialTimeout)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer conn.Close()
	fmt.Fprintln(w, "connected from", conn.LocalAddr())
}

func exit(w http.ResponseWriter, r *http.Request) {
	code, _ := strconv.Atoi(r.URL.Query().Get("code"))
	os.Exit(code)
}

func readOrEmpty(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(b)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}
