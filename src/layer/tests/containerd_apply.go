// What containerd itself makes of a layer, or of two trees: the oracle of the tests beside it.
//
//	apply ROOT < layer.tar        containerd_apply diff OLD NEW > layer.tar
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"

	"github.com/containerd/containerd/archive"
	"github.com/sirupsen/logrus"
)

func main() {
	logrus.SetOutput(io.Discard)
	var err error
	switch os.Args[1] {
	case "apply":
		_, err = archive.Apply(context.Background(), os.Args[2], bufio.NewReader(os.Stdin))
	case "diff":
		err = archive.WriteDiff(context.Background(), os.Stdout, os.Args[2], os.Args[3])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
