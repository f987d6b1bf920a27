package main

import (
	"math/rand"
	"os"
	"path/filepath"
)

const fileSize = 1 << 20

// What a layer does with each of the files a to j, as containerd's benchsuite has it: W writes it anew, U updates four
// bytes in its middle, R removes it.
var (
	first  = "WWWWWWWWWW"
	second = "UWRWURWUWU"
	third  = "UUWUUWRWUW"
)

// The order of benchsuite's third layer: e is updated after f is written, which makes no difference here.
func actions(layer int) string {
	switch {
	case layer%3 == 0:
		return third
	case layer%2 == 0:
		return second
	default:
		return first
	}
}

var content = func() []byte {
	bytes := make([]byte, fileSize+1024)
	rand.New(rand.NewSource(1)).Read(bytes)
	return bytes
}()

// write does one layer's work. The bytes differ from layer to layer and cost nothing to make.
func write(root string, layer int) error {
	for i, action := range actions(layer) {
		path := filepath.Join(root, string(rune('a'+i)))
		var err error
		switch action {
		case 'W':
			err = os.WriteFile(path, content[(layer*16+i)%1024:][:fileSize], 0o777)
		case 'U':
			err = update(path)
		case 'R':
			err = os.RemoveAll(path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func update(path string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err := file.WriteAt([]byte("four"), fileSize/2); err != nil {
		file.Close()
		return err
	}
	return file.Close()
}
