// The scenario of the real clients, spoken by go-zookeeper/zk. Prints one line per step; times and session ids never
// occur in the output, zxids are relative to the first write.
package main

import (
	"bytes"
	"fmt"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/go-zookeeper/zk"
)

type quiet struct{}

func (quiet) Printf(string, ...interface{}) {}

var (
	base int64
	open = zk.WorldACL(zk.PermAll)
)

func rel(zxid int64) string {
	if zxid == 0 {
		return "0"
	}
	return fmt.Sprintf("+%d", zxid-base)
}

func show(s *zk.Stat) string {
	if s == nil {
		return "no stat"
	}
	now := time.Now().UnixMilli()
	recent := now-s.Ctime < 60_000 && now-s.Mtime < 60_000 && s.Ctime <= s.Mtime
	return fmt.Sprintf("czxid=%s mzxid=%s pzxid=%s version=%d cversion=%d aversion=%d ephemeral=%v length=%d children=%d recent=%v",
		rel(s.Czxid), rel(s.Mzxid), rel(s.Pzxid), s.Version, s.Cversion, s.Aversion, s.EphemeralOwner != 0, s.DataLength, s.NumChildren, recent)
}

func connect(address string) (*zk.Conn, <-chan zk.Event) {
	c, events, err := zk.Connect([]string{address}, 8*time.Second, zk.WithLogger(quiet{}), zk.WithLogInfo(false))
	must(err)
	for e := range events {
		if e.State == zk.StateHasSession {
			return c, events
		}
	}
	panic("no session")
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func create(c *zk.Conn, path, data string, flags int32, acl []zk.ACL) string {
	p, err := c.Create(path, []byte(data), flags, acl)
	fmt.Printf("create %s flags=%d: %s %v\n", path, flags, p, err)
	return p
}

func stat(c *zk.Conn, path string) {
	ok, s, err := c.Exists(path)
	if !ok {
		s = nil
	}
	fmt.Printf("exists %s: %v %v %s\n", path, ok, err, show(s))
}

func get(c *zk.Conn, path string) {
	d, s, err := c.Get(path)
	if err != nil {
		s = nil
	}
	if len(d) > 60 {
		d = []byte(fmt.Sprintf("%d bytes of %q", len(d), d[:1]))
	}
	fmt.Printf("get %s: %q %v %s\n", path, d, err, show(s))
}

func set(c *zk.Conn, path, data string, version int32) {
	s, err := c.Set(path, []byte(data), version)
	if err != nil {
		s = nil
	}
	fmt.Printf("set %s version %d: %v %s\n", path, version, err, show(s))
}

func del(c *zk.Conn, path string, version int32) {
	fmt.Printf("delete %s version %d: %v\n", path, version, c.Delete(path, version))
}

func children(c *zk.Conn, path string) {
	names, s, err := c.Children(path)
	if err != nil {
		s = nil
	}
	sort.Strings(names)
	fmt.Printf("children %s: [%s] %v %s\n", path, strings.Join(names, " "), err, show(s))
}

func acl(c *zk.Conn, path string) {
	a, s, err := c.GetACL(path)
	if err != nil {
		s = nil
	}
	fmt.Printf("getACL %s: %v %v %s\n", path, a, err, show(s))
}

func event(name string, ch <-chan zk.Event) {
	select {
	case e := <-ch:
		fmt.Printf("event %s: %v %s %v\n", name, e.Type, e.Path, e.Err)
	case <-time.After(3 * time.Second):
		fmt.Printf("event %s: none\n", name)
	}
}

func noEvent(name string, ch <-chan zk.Event) {
	select {
	case e := <-ch:
		fmt.Printf("event %s: unexpected %v %s\n", name, e.Type, e.Path)
	case <-time.After(200 * time.Millisecond):
		fmt.Printf("event %s: none, as it should be\n", name)
	}
}

func multi(c *zk.Conn, name string, ops ...interface{}) {
	results, err := c.Multi(ops...)
	fmt.Printf("multi %s: %v\n", name, err)
	for i, r := range results {
		fmt.Printf("  %d: %q %v %s\n", i, r.String, r.Error, show(r.Stat))
	}
}

func main() {
	address := os.Args[1]
	a, _ := connect(address)

	fmt.Println("# nodes")
	create(a, "/go", "root", 0, open)
	_, s, err := a.Get("/go")
	must(err)
	base = s.Czxid
	stat(a, "/go")
	create(a, "/go", "again", 0, open)
	create(a, "/go/a/b", "no parent", 0, open)
	create(a, "/go/empty", "", 0, open)
	get(a, "/go/empty")
	create(a, "/go/ünï-日本", "δ", 0, open)
	get(a, "/go/ünï-日本")
	for i := 0; i < 3; i++ {
		create(a, "/go/seq-", "", zk.FlagSequence, open)
	}
	create(a, "/go/eph", "mine", zk.FlagEphemeral, open)
	stat(a, "/go/eph")
	create(a, "/go/eph/child", "", 0, open)
	create(a, "/go/es-", "mine", zk.FlagEphemeral|zk.FlagSequence, open)
	p, err := a.CreateContainer("/go/container", nil, zk.FlagTTL, open)
	fmt.Printf("container with a wrong flag: %q %v\n", p, err)
	p, err = a.CreateContainer("/go/container", []byte("c"), 4, open)
	fmt.Printf("container: %q %v\n", p, err)
	p, err = a.CreateTTL("/go/ttl", []byte("t"), zk.FlagTTL, open, time.Hour)
	fmt.Printf("ttl: %q %v\n", p, err)
	p, err = a.CreateTTL("/go/ttl-", []byte("t"), zk.FlagTTL|zk.FlagSequence, open, time.Hour)
	fmt.Printf("ttl, sequential: %q %v\n", p, err)
	stat(a, "/go/ttl")
	children(a, "/go")
	children(a, "/go/nothing")

	fmt.Println("# data and versions")
	set(a, "/go", "one", -1)
	set(a, "/go", "two", 1)
	set(a, "/go", "three", 1)
	set(a, "/go/nothing", "x", -1)
	get(a, "/go")
	set(a, "/go/empty", strings.Repeat("z", 900_000), -1)
	get(a, "/go/empty")
	del(a, "/go/empty", 7)
	del(a, "/go/empty", 1)
	del(a, "/go/empty", -1)
	del(a, "/go", -1)
	stat(a, "/go/empty")
	sp, err := a.Sync("/go")
	fmt.Printf("sync: %q %v\n", sp, err)

	fmt.Println("# watches")
	_, _, data, err := a.GetW("/go")
	must(err)
	_, _, gone, err := a.ExistsW("/go/w")
	must(err)
	_, _, kids, err := a.ChildrenW("/go")
	must(err)
	b, _ := connect(address)
	set(b, "/go", "changed", -1)
	event("data", data)
	create(b, "/go/w", "", 0, open)
	event("created", gone)
	event("children", kids)
	_, _, data, err = a.GetW("/go/w")
	must(err)
	_, _, kids, err = a.ChildrenW("/go/w")
	must(err)
	del(b, "/go/w", -1)
	event("data of the deleted", data)
	event("children of the deleted", kids)
	_, _, data, err = a.GetW("/go")
	must(err)
	create(b, "/go/w", "", 0, open)
	noEvent("data on a new child", data)
	del(b, "/go/w", -1)

	fmt.Println("# multi")
	multi(a, "all", &zk.CreateRequest{Path: "/go/m", Data: []byte("1"), Acl: open}, &zk.CreateRequest{Path: "/go/m/s-", Acl: open, Flags: zk.FlagSequence},
		&zk.SetDataRequest{Path: "/go/m", Data: []byte("22"), Version: 0}, &zk.CheckVersionRequest{Path: "/go/m", Version: 1}, &zk.DeleteRequest{Path: "/go/m/s-0000000000", Version: -1})
	get(a, "/go/m")
	multi(a, "none", &zk.CreateRequest{Path: "/go/n", Acl: open}, &zk.CheckVersionRequest{Path: "/go/m", Version: 9}, &zk.DeleteRequest{Path: "/go/m", Version: -1})
	stat(a, "/go/n")
	multi(a, "empty")

	fmt.Println("# access control")
	create(a, "/go/acl", "secret", 0, zk.DigestACL(zk.PermAll, "ann", "pw"))
	get(a, "/go/acl")
	acl(a, "/go/acl")
	fmt.Println("auth:", a.AddAuth("digest", []byte("ann:pw")))
	get(a, "/go/acl")
	acl(a, "/go/acl")
	s, err = a.SetACL("/go/acl", append(zk.WorldACL(zk.PermRead), zk.DigestACL(zk.PermAll, "ann", "pw")...), 0)
	fmt.Println("setACL:", err, show(s))
	_, err = a.SetACL("/go/acl", open, 0)
	fmt.Println("setACL, old version:", err)
	_, err = a.SetACL("/go/acl", []zk.ACL{{Perms: 31, Scheme: "nonsense", ID: "x"}}, -1)
	fmt.Println("setACL, unknown scheme:", err)
	create(a, "/go/noacl", "", 0, []zk.ACL{})
	get(b, "/go/acl")
	set(b, "/go/acl", "x", -1)
	create(a, "/go/auth", "", 0, zk.AuthACL(zk.PermAll))
	acl(a, "/go/auth")
	create(b, "/go/auth2", "", 0, zk.AuthACL(zk.PermAll))

	fmt.Println("# sessions")
	fmt.Println("ids differ:", a.SessionID() != b.SessionID(), "not zero:", a.SessionID() != 0)
	_, _, gone, err = b.ExistsW("/go/eph")
	must(err)
	a.Close()
	event("ephemeral after close", gone)
	stat(b, "/go/eph")
	children(b, "/go")
	lock := zk.NewLock(b, "/go-lock", open)
	fmt.Println("lock:", lock.Lock())
	c, _ := connect(address)
	other := zk.NewLock(c, "/go-lock", open)
	got := make(chan error, 1)
	go func() { got <- other.Lock() }()
	select {
	case <-got:
		fmt.Println("the lock was given twice")
	case <-time.After(300 * time.Millisecond):
		fmt.Println("the lock is held")
	}
	fmt.Println("unlock:", lock.Unlock())
	fmt.Println("second holder:", <-got, other.Unlock())
	_, err = c.Reconfig([]string{"server.1=127.0.0.1:1:2;3"}, -1)
	fmt.Println("reconfig:", err)
	_, _, err = c.Get("no-slash")
	fmt.Println("bad path:", err)
	d, _, err := c.Get("/zookeeper/config")
	fmt.Printf("config node: %q %v\n", bytes.TrimSpace(d), err)
	c.Close()
	b.Close()
}
