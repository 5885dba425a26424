// The parts that the programs in Go share: errors as JSON, and the protocol of answers.py.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
)

type description struct {
	Kind string `json:"kind"`
	Code string `json:"code"`
	Text string `json:"text"`
}

// kindOf returns the type of an error, without the wrappers of the standard library.
func kindOf(err error) string {
	kind := fmt.Sprintf("%T", err)
	if strings.HasPrefix(kind, "*fmt.") || strings.HasPrefix(kind, "*errors.") {
		return "error"
	}
	return kind
}

func version(module string) map[string]string {
	build, _ := debug.ReadBuildInfo()
	for _, each := range build.Deps {
		if each.Path == module {
			return map[string]string{"version": module + " " + each.Version}
		}
	}
	panic("not built with the module")
}

// serve answers each line until the end of the input.
func serve(module string, play func(scenario string) map[string]*description) {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var result any = version(module)
		if lines.Text() != "version" {
			result = play(lines.Text())
		}
		answer, err := json.Marshal(result)
		if err != nil {
			panic(err)
		}
		fmt.Println(string(answer))
	}
}
