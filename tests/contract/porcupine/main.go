// Command porcupine-check prints the verdict of Porcupine on histories of registers: ok, illegal or unknown, a line for each file.
//
// The files are those of History.export(path, "porcupine"). The register is that of the checker `linearizable`, written once more.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"time"

	"github.com/anishathalye/porcupine"
)

const (
	timeout = 20 * time.Second
	unknown = -1 // a version
	missing = "null"
	begin   = "begin" // the kind of an operation before all others, which makes a missing object
)

type input struct {
	Op       string          `json:"op"`
	Key      *string         `json:"key"`
	Value    json.RawMessage `json:"value"`
	Expected *int64          `json:"expected"`
}

type output struct {
	Value   json.RawMessage `json:"value"`
	Version *int64          `json:"version"`
	Unknown bool            `json:"unknown"`
}

type operation struct {
	ClientId int
	Input    input
	Call     int64
	Output   output
	Return   int64
}

// register is the state of one key. Before its first operation, its value may be unknown.
type register struct {
	known   bool
	value   string
	version int64
}

func step(state, in, out interface{}) (bool, interface{}) {
	now, given, answer := state.(register), in.(input), out.(output)
	if answer.Unknown && !allows(now, given) {
		return true, now // Porcupine places each operation, and this one has changed nothing
	}
	version := int64(unknown)
	if answer.Version != nil {
		version = *answer.Version
	}
	switch given.Op {
	case "read":
		seen := string(answer.Value)
		if now.known && now.value != seen {
			return false, now
		}
		if version != unknown && now.version != unknown && version != now.version {
			return false, now
		}
		if version == unknown {
			version = now.version
		}
		if seen == missing {
			version = 0
		}
		return true, register{true, seen, version}
	case begin, "delete":
		return allows(now, given), register{true, missing, 0}
	default:
		return allows(now, given), register{true, string(given.Value), version}
	}
}

// allows is true if a write requires no version, or the present one.
func allows(now register, given input) bool {
	return given.Expected == nil || now.version == unknown || now.version == *given.Expected
}

// byKey returns the operations on each key. A key that a create begins is a missing object before.
func byKey(history []porcupine.Operation) [][]porcupine.Operation {
	keys := map[string][]porcupine.Operation{}
	for _, each := range history {
		if key := each.Input.(input).Key; key != nil {
			keys[*key] = append(keys[*key], each)
		}
	}
	parts := [][]porcupine.Operation{}
	for _, own := range keys {
		sort.SliceStable(own, func(a, b int) bool { return own[a].Call < own[b].Call })
		if own[0].Input.(input).Op == "create" {
			first := porcupine.Operation{Input: input{Op: begin}, Call: -2, Output: output{}, Return: -1}
			own = append([]porcupine.Operation{first}, own...)
		}
		parts = append(parts, own)
	}
	return parts
}

func read(path string) ([]porcupine.Operation, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	history := []porcupine.Operation{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var each operation
		if err := json.Unmarshal(lines.Bytes(), &each); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		history = append(history, porcupine.Operation{
			ClientId: each.ClientId, Input: each.Input, Call: each.Call, Output: each.Output, Return: each.Return,
		})
	}
	return history, nil
}

func main() {
	model := porcupine.Model{Partition: byKey, Init: func() interface{} { return register{version: unknown} }, Step: step}
	for _, path := range os.Args[1:] {
		history, err := read(path)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		switch porcupine.CheckOperationsTimeout(model, history, timeout) {
		case porcupine.Ok:
			fmt.Println("ok")
		case porcupine.Illegal:
			fmt.Println("illegal")
		default:
			fmt.Println("unknown")
		}
	}
}
