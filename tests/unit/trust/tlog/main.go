// Checks an export of a ledger, and proofs made from it, with the Go project's own packages, knowing nothing of graced.
//
// usage: tlog DIRECTORY KEY [INDEX | prefix SIZE ROOT | proof FILE | continues ROOT FILE]...
//
// DIRECTORY in the layout of C2SP tlog-tiles. The checkpoint's signature is checked by sumdb/note. Without more, the
// root is rebuilt from every entry by sumdb/tlog. INDEX: the entry's inclusion is proved from the tiles alone and the
// proof checked. SIZE ROOT: likewise that the tree of that size and root (base64) is a prefix. FILE: a tlog-proof; or
// the proof that a log goes on from one of that root, in the form of a tlog-witness request.
package main

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "tlog:", err)
		os.Exit(1)
	}
}

func open(data []byte, key string) tlog.Tree {
	verifier, err := note.NewVerifier(key)
	must(err)
	opened, err := note.Open(data, note.VerifierList(verifier))
	must(err)
	lines := strings.Split(opened.Text, "\n")
	if len(lines) < 3 || lines[0] != verifier.Name() {
		must(fmt.Errorf("not a checkpoint of %s", verifier.Name()))
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	must(err)
	root, err := tlog.ParseHash(lines[2])
	must(err)
	return tlog.Tree{N: size, Hash: root}
}

// reader gives tlog the export's tiles.
type reader struct {
	directory string
	size      int64
}

func (r reader) Height() int                                { return 8 }
func (r reader) SaveTiles(tiles []tlog.Tile, data [][]byte) {}

func (r reader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range tiles {
		wanted := tile.W
		// A part of a tile is asked for where the whole one, or the one of this size, is what is there.
		tile.W = 256
		if there := r.size>>(8*uint(tile.L)) - tile.N*256; there < 256 {
			tile.W = int(there)
		}
		// Go's path begins with the height, C2SP's does not.
		data, err := os.ReadFile(filepath.Join(r.directory, strings.Replace(tile.Path(), "tile/8/", "tile/", 1)))
		if err != nil {
			return nil, err
		}
		if len(data) != 32*tile.W || wanted > tile.W {
			return nil, fmt.Errorf("%s has %d bytes", tile.Path(), len(data))
		}
		all = append(all, data[:32*wanted])
	}
	return all, nil
}

func bundle(directory string, n, size int64) [][]byte {
	tile := tlog.Tile{H: 8, L: 0, N: n, W: 256}
	if size-n*256 < 256 {
		tile.W = int(size - n*256)
	}
	data, err := os.ReadFile(filepath.Join(directory, strings.Replace(tile.Path(), "tile/8/0/", "tile/entries/", 1)))
	must(err)
	var entries [][]byte
	for len(data) > 0 {
		length := int(binary.BigEndian.Uint16(data))
		entries = append(entries, data[2:2+length])
		data = data[2+length:]
	}
	if len(entries) != tile.W {
		must(fmt.Errorf("%d entries in a bundle of %d", len(entries), tile.W))
	}
	return entries
}

func rebuild(directory string, tree tlog.Tree) {
	var stored []tlog.Hash
	read := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		var found []tlog.Hash
		for _, index := range indexes {
			found = append(found, stored[index])
		}
		return found, nil
	})
	for seq := int64(0); seq < tree.N; seq += 256 {
		for at, entry := range bundle(directory, seq/256, tree.N) {
			hashes, err := tlog.StoredHashes(seq+int64(at), entry, read)
			must(err)
			stored = append(stored, hashes...)
		}
	}
	root, err := tlog.TreeHash(tree.N, read)
	must(err)
	if root != tree.Hash {
		must(fmt.Errorf("the entries have the root %v", root))
	}
}

func proof(path, key string) {
	data, err := os.ReadFile(path)
	must(err)
	parts := strings.SplitN(string(data), "\n\n", 2)
	lines := strings.Split(parts[0], "\n")
	tree := open([]byte(parts[1]), key)
	if lines[0] != "c2sp.org/tlog-proof@v1" {
		must(fmt.Errorf("not a proof"))
	}
	entry, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(lines[1], "extra "))
	must(err)
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[2], "index "), 10, 64)
	must(err)
	var found tlog.RecordProof
	for _, line := range lines[3:] {
		hash, err := tlog.ParseHash(line)
		must(err)
		found = append(found, hash)
	}
	must(tlog.CheckRecord(found, tree.N, tree.Hash, index, tlog.RecordHash(entry)))
}

func continues(root, path, key string) {
	data, err := os.ReadFile(path)
	must(err)
	parts := strings.SplitN(string(data), "\n\n", 2)
	lines := strings.Split(parts[0], "\n")
	tree := open([]byte(parts[1]), key)
	size, err := strconv.ParseInt(strings.TrimPrefix(lines[0], "old "), 10, 64)
	must(err)
	old, err := tlog.ParseHash(root)
	must(err)
	var found tlog.TreeProof
	for _, line := range lines[1:] {
		hash, err := tlog.ParseHash(line)
		must(err)
		found = append(found, hash)
	}
	must(tlog.CheckTree(found, tree.N, tree.Hash, size, old))
}

func main() {
	directory, key, rest := os.Args[1], os.Args[2], os.Args[3:]
	data, err := os.ReadFile(filepath.Join(directory, "checkpoint"))
	must(err)
	tree := open(data, key)
	hashes := tlog.TileHashReader(tree, reader{directory, tree.N})
	if len(rest) == 0 {
		rebuild(directory, tree)
	}
	for len(rest) > 0 {
		switch rest[0] {
		case "prefix":
			size, err := strconv.ParseInt(rest[1], 10, 64)
			must(err)
			root, err := tlog.ParseHash(rest[2])
			must(err)
			found, err := tlog.ProveTree(tree.N, size, hashes)
			must(err)
			must(tlog.CheckTree(found, tree.N, tree.Hash, size, root))
			for _, hash := range found {
				fmt.Println(hash)
			}
			rest = rest[3:]
		case "proof":
			proof(rest[1], key)
			rest = rest[2:]
		case "continues":
			continues(rest[1], rest[2], key)
			rest = rest[3:]
		default:
			index, err := strconv.ParseInt(rest[0], 10, 64)
			must(err)
			found, err := tlog.ProveRecord(tree.N, index, hashes)
			must(err)
			entry := bundle(directory, index/256, tree.N)[index%256]
			must(tlog.CheckRecord(found, tree.N, tree.Hash, index, tlog.RecordHash(entry)))
			for _, hash := range found {
				fmt.Println(hash)
			}
			rest = rest[1:]
		}
	}
	fmt.Println("agrees", tree.N)
}
