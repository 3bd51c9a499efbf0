package relay

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/gofrs/flock"
	"github.com/google/uuid"

	"github.com/keyledger/keyledger/internal/coalesce"
)

// journal is a file that knows every request which may cost something and is not yet in the
// ledger, with what it would be settled by if the relay ended now. A line is durable when it
// has been written; those of many requests are synced together.
type journal struct {
	dir   string
	lock  *flock.Flock
	log   *slog.Logger
	group *coalesce.Group[[]line, struct{}]
	most  int64 // bytes of open requests; past it no new one is taken

	mu     sync.Mutex
	file   *os.File
	size   int64 // of the file
	broken bool  // a write has failed
	live   map[uuid.UUID]line
	held   int64        // bytes of live
	ended  bytes.Buffer // lines of requests that are done, to be written with the next ones
}

// state is how far a request has come.
type state string

const (
	stateOpen   state = "open"   // it goes upstream
	stateSeen   state = "seen"   // something of its answer has come
	stateSettle state = "settle" // what it used is known, and has to be recorded
	// stateRelease: it used nothing, and its admission has to be released.
	stateRelease state = "release"
	stateDone    state = "done" // it is in the ledger, or cost nothing
)

// line is one line of the journal: what a request would be settled by.
type line struct {
	ID    uuid.UUID `json:"id"` // of the admission
	State state     `json:"state"`
	Usage Usage     `json:"usage,omitzero"`

	bytes int64
}

const (
	journalFile = "journal.jsonl"
	// journalMost bounds the bytes of requests that wait for the ledger.
	journalMost = 256 << 20
	// compactAt is the size of the file from which it is written anew without what is done.
	compactAt = 16 << 20
)

// errJournal begins the errors of a journal that cannot take a request.
var errJournal = errors.New("the journal takes no requests")

// openJournal opens the journal of a directory, which one relay has at a time, and returns
// what an earlier one left behind.
func openJournal(dir string, log *slog.Logger) (*journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("the directory of the journal: %w", err)
	}
	j := &journal{dir: dir, lock: flock.New(filepath.Join(dir, "lock")), log: log, most: journalMost, live: map[uuid.UUID]line{}}
	locked, err := j.lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("locking the journal: %w", err)
	}
	if !locked {
		return nil, fmt.Errorf("another relay uses the journal in %s: each needs a KEYLEDGER_SPOOL_DIR of its own", dir)
	}
	if err := errors.Join(j.read(), j.rewrite()); err != nil {
		_ = j.lock.Unlock()
		return nil, err
	}
	j.group = coalesce.New(coalesce.Options[[]line, struct{}]{
		Limits: coalesce.Limits{Writers: 1, MaxBatch: 1000, MaxQueue: 100_000},
		Flush:  j.flush,
		Weight: func(lines []line) int { return len(lines) },
	})
	return j, nil
}

// read takes in the file. A last line that was not written whole was promised to nobody.
func (j *journal) read() error {
	file, err := os.Open(filepath.Join(j.dir, journalFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening the journal: %w", err)
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewReader(file)
	for n := 1; ; n++ {
		text, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(text) == 0 {
			return nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("reading the journal: %w", err)
		}
		var l line
		if err := json.Unmarshal(text, &l); err != nil {
			j.log.Warn("a line of the journal is not whole", "line", n, "error", err)
			continue
		}
		l.bytes = int64(len(text))
		j.apply(l)
	}
}

// apply notes a line. What was seen does not undo what was settled, and what is done stays so.
func (j *journal) apply(l line) {
	before, known := j.live[l.ID]
	switch {
	case l.State == stateDone:
		delete(j.live, l.ID)
		l.bytes = 0
	case l.State == stateSeen && (!known || before.State == stateSettle || before.State == stateRelease):
		return
	default:
		j.live[l.ID] = l
	}
	j.held += l.bytes - before.bytes
}

// rewrite writes the file anew, with what is live alone.
func (j *journal) rewrite() error {
	var text bytes.Buffer
	for _, l := range j.live {
		if err := json.NewEncoder(&text).Encode(l); err != nil {
			return fmt.Errorf("encoding the journal: %w", err)
		}
	}
	name := filepath.Join(j.dir, journalFile)
	file, err := os.OpenFile(name+".new", os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("writing the journal: %w", err)
	}
	_, err = file.Write(text.Bytes())
	if err = errors.Join(err, file.Sync()); err == nil {
		err = os.Rename(name+".new", name)
	}
	if err != nil {
		_ = file.Close()
		return fmt.Errorf("writing the journal: %w", err)
	}
	if j.file != nil {
		_ = j.file.Close()
	}
	j.file, j.size, j.broken = file, int64(text.Len()), false
	j.ended.Reset()
	if err := syncDir(j.dir); err != nil {
		return fmt.Errorf("writing the journal: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// flush writes lines and syncs them once. If that fails, nothing of them is there.
func (j *journal) flush(_ context.Context, batch [][]line) ([]struct{}, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	var text bytes.Buffer
	var lines []line
	for _, one := range batch {
		for _, l := range one {
			before := text.Len()
			if err := json.NewEncoder(&text).Encode(l); err != nil {
				return nil, fmt.Errorf("encoding the journal: %w", err)
			}
			l.bytes = int64(text.Len() - before)
			lines = append(lines, l)
		}
	}
	return make([]struct{}, len(batch)), j.add(text.Bytes(), lines)
}

// add writes text, the lines that it is of, and those of requests that have ended since.
func (j *journal) add(text []byte, lines []line) error {
	if j.broken { // whatever stands behind size is not to be read again
		if err := j.rewrite(); err != nil {
			return fmt.Errorf("%w: %w", errJournal, err)
		}
	}
	text = slices.Concat(j.ended.Bytes(), text)
	_, err := j.file.WriteAt(text, j.size)
	if err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		j.broken = true
		return fmt.Errorf("%w: %w", errJournal, err)
	}
	j.size += int64(len(text))
	j.ended.Reset()
	for _, l := range lines {
		j.apply(l)
	}
	if j.size > compactAt && j.size > 4*j.held {
		if err := j.rewrite(); err != nil {
			j.log.Error("the journal was not written anew", "error", err)
		}
	}
	return nil
}

// forget notes that a request is done. That is written with what comes next, or by tidy: if it is
// lost before, the request is recorded again, which changes nothing.
func (j *journal) forget(id uuid.UUID) {
	l := line{ID: id, State: stateDone}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.apply(l)
	if err := json.NewEncoder(&j.ended).Encode(l); err != nil {
		j.log.Error("encoding the journal", "error", err)
	}
}

// open notes a request before anything of it goes upstream.
func (j *journal) open(ctx context.Context, u Usage) error {
	j.mu.Lock()
	full := j.held > j.most
	j.mu.Unlock()
	if full {
		return fmt.Errorf("%w: %d bytes wait for the ledger", errJournal, j.most)
	}
	return j.write(ctx, line{ID: u.AdmissionID, State: stateOpen, Usage: u})
}

// write notes lines, and returns when they are durable.
func (j *journal) write(ctx context.Context, lines ...line) error {
	_, err := j.group.Do(ctx, lines)
	return err
}

// left are the requests in a state, or in any.
func (j *journal) left(states ...state) (lines []line) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, l := range j.live {
		for _, s := range states {
			if l.State == s {
				lines = append(lines, l)
			}
		}
	}
	return lines
}

// tidy writes which requests are done, where nothing else was written since.
func (j *journal) tidy() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.ended.Len() == 0 {
		return nil
	}
	return j.add(nil, nil)
}

// close writes what waits and gives the directory free.
func (j *journal) close(ctx context.Context) error {
	err := errors.Join(j.group.Close(ctx), j.tidy())
	j.mu.Lock()
	defer j.mu.Unlock()
	if failed := j.file.Close(); !errors.Is(failed, os.ErrClosed) {
		err = errors.Join(err, failed)
	}
	return errors.Join(err, j.lock.Unlock())
}
