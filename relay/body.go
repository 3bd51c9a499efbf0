package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxBody is the largest request body, in bytes: as much as Anthropic takes.
	// Source: https://platform.claude.com/docs/en/api/errors
	maxBody = 32 << 20
	// maxInMemory is the size above which a body is kept in a file.
	maxInMemory = 1 << 20
	// bodyUnasked is as much of a body as is taken before the key is looked at: most have
	// less, and are spared the question.
	bodyUnasked = 64 << 10
	// bodyTime bounds the arrival of a whole body.
	bodyTime = 5 * time.Minute
	// bodyPause is how long a client may send nothing of its body.
	bodyPause = 30 * time.Second
)

// Errors of reading a body.
var (
	errBodyTooLarge = fmt.Errorf("the request's body is larger than %d MiB", maxBody>>20)
	errBodiesFull   = errors.New("too many request bodies are held at the moment")
	errBodyBroken   = errors.New("the request's body did not arrive whole")
	errUnknownKey   = errors.New("the key is not known")
)

// bodies are the request bodies that are held: together no more than a budget of bytes, each
// byte counted when it arrives and given back when its request has been answered.
type bodies struct {
	left atomic.Int64
	dir  string // for files
}

// body is a request's whole body, which may be sent more than once.
type body struct {
	of     *bodies
	size   int64
	memory []byte
	file   *os.File // nil: it is in memory
	patch  patch    // what goes upstream in the place of a part of it

	mu      sync.Mutex
	senders int  // that read it
	over    bool // it is not needed any more, but by them
}

// patch replaces the bytes from one offset to another.
type patch struct {
	from, to int64
	with     string
}

// read takes the whole body of a request. known is asked before a large one is taken.
func (b *bodies) read(w http.ResponseWriter, r *http.Request, known func(context.Context) error) (_ *body, err error) {
	held := &body{of: b}
	defer func() {
		if err != nil {
			held.release()
		}
	}()
	if r.ContentLength > maxBody {
		return nil, errBodyTooLarge
	}
	if r.ContentLength > 0 && r.ContentLength <= maxInMemory {
		held.memory = make([]byte, 0, min(r.ContentLength, 64<<10))
	}
	conn, end, asked := http.NewResponseController(w), time.Now().Add(bodyTime), false
	chunk := pooled.Get()
	defer pooled.Put(chunk)
	for {
		pause := time.Now().Add(bodyPause)
		if pause.After(end) {
			pause = end
		}
		_ = conn.SetReadDeadline(pause) // of a test's recorder: it has none
		n, err := r.Body.Read(chunk)
		if n > 0 {
			if err := held.add(chunk[:n]); err != nil {
				return nil, err
			}
		}
		if held.size > bodyUnasked && !asked {
			asked = true
			if err := known(r.Context()); err != nil {
				return nil, err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			_ = conn.SetReadDeadline(time.Time{})
			return held, nil
		case err != nil:
			return nil, fmt.Errorf("%w: %w", errBodyBroken, err)
		}
	}
}

// add keeps what has arrived.
func (h *body) add(chunk []byte) error {
	n := int64(len(chunk))
	if h.size+n > maxBody {
		return errBodyTooLarge
	}
	if h.of.left.Add(-n) < 0 {
		h.of.left.Add(n)
		return errBodiesFull
	}
	h.size += n
	if h.file == nil && h.size <= maxInMemory {
		h.memory = append(h.memory, chunk...)
		return nil
	}
	if h.file == nil {
		file, err := os.CreateTemp(h.of.dir, "body-*")
		if err != nil {
			return fmt.Errorf("keeping a large body: %w", err)
		}
		_ = os.Remove(file.Name()) // it lives as long as it is open, whatever happens to the process
		h.file = file
		chunk, h.memory = append(h.memory, chunk...), nil
	}
	if _, err := h.file.Write(chunk); err != nil {
		return fmt.Errorf("keeping a large body: %w", err)
	}
	return nil
}

// part reads the bytes from one offset to another.
func (h *body) part(from, to int64) io.Reader {
	if h.file != nil {
		return io.NewSectionReader(h.file, from, to-from)
	}
	return bytes.NewReader(h.memory[from:to])
}

// whole reads it as it came.
func (h *body) whole() io.Reader { return h.part(0, h.size) }

// outgoing reads it as it goes upstream. A provider may answer before it has read all of it, so
// a file stays open until its readers are closed.
func (h *body) outgoing() io.ReadCloser {
	h.mu.Lock()
	h.senders++
	h.mu.Unlock()
	r := h.whole()
	if h.patch.with != "" {
		r = io.MultiReader(h.part(0, h.patch.from), bytes.NewReader([]byte(h.patch.with)), h.part(h.patch.to, h.size))
	}
	return &sending{r, sync.OnceFunc(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.senders--
		h.close()
	})}
}

// sending is a body on its way upstream.
type sending struct {
	io.Reader

	done func()
}

func (s *sending) Close() error {
	s.done()
	return nil
}

// close closes the file if nobody needs it.
func (h *body) close() {
	if h.over && h.senders == 0 && h.file != nil {
		_ = h.file.Close()
	}
}

// length is how long it is as it goes upstream.
func (h *body) length() int64 { return h.size - (h.patch.to - h.patch.from) + int64(len(h.patch.with)) }

// release gives its bytes back. It may be called more than once.
func (h *body) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.over {
		h.over = true
		h.of.left.Add(h.size)
		h.memory = nil
		h.close()
	}
}
