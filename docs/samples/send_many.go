// Copyright The Linux Foundation and each contributor to LFX.
// SPDX-License-Identifier: MIT

// Command send_many sends one email to each address of a file, such as 5,000, and may be run again after any failure:
//
//	go run send_many.go addresses.txt spring-2026
//
// Each email has its own idempotency key, made of the name of the mailing and the address. So a request may be
// repeated: without a reply, after a crash, by a second run within 24 hours. No email is sent twice.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"math/rand"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	subject      = "lfx.email-service.send_email"
	concurrency  = 32               // emails under way: as many as the relay has SMTP connections by default
	replyTime    = 45 * time.Second // the relay tries for 8 s, and the last attempt may take 30 s
	patience     = 15 * time.Minute // how long one email is tried before it is reported
	firstPause   = 500 * time.Millisecond
	longestPause = 10 * time.Second
)

// request is the email for one address: the same one each time, since a key belongs to its content.
type request struct {
	To             string `json:"to"`
	Subject        string `json:"subject"`
	HTML           string `json:"html"`
	Text           string `json:"text"`
	GroupID        string `json:"group_id"`
	IdempotencyKey string `json:"idempotency_key"`
}

type reply struct {
	EmailID   string `json:"email_id"`
	Error     string `json:"error"`
	Outcome   string `json:"outcome"`
	Permanent bool   `json:"permanent"`
}

// status is what became of one email.
type status string

const (
	sent     status = "sent"
	filtered status = "filtered"
	failed   status = "failed"
	unknown  status = "unknown" // it may be in the mailbox: keep what it is about
	unsent   status = "unsent"  // the patience was over
	again    status = "again"   // nothing was sent by this request
	noReply  status = "no reply"
)

type result struct {
	to     string
	status status
	detail string
}

// send sends one email, and repeats the request until its outcome is known.
func send(nc *nats.Conn, mailing, to string) result {
	payload, err := json.Marshal(request{
		To: to, Subject: "The programme is out", HTML: "<p>See you in spring!</p>", Text: "See you in spring!",
		GroupID: mailing, IdempotencyKey: mailing + "/" + to,
	})
	if err != nil {
		return result{to, failed, err.Error()}
	}
	deadline := time.Now().Add(patience)
	for pause := firstPause; ; pause = min(pause*2, longestPause) {
		status, detail := ask(nc, payload)
		switch {
		case status != again && status != noReply:
			return result{to, status, detail}
		case time.Now().Add(pause).Before(deadline):
			time.Sleep(pause/2 + time.Duration(rand.Int63n(int64(pause/2))))
		case status == again:
			return result{to, unsent, detail}
		default:
			return result{to, unknown, detail}
		}
	}
}

// ask asks once. Without a reply the key makes a repeat safe.
func ask(nc *nats.Conn, payload []byte) (status, string) {
	msg, err := nc.Request(subject, payload, replyTime)
	if errors.Is(err, nats.ErrNoResponders) {
		return again, "no relay is running"
	}
	if err != nil {
		return noReply, err.Error()
	}
	var answer reply
	if err := json.Unmarshal(msg.Data, &answer); err != nil {
		return noReply, err.Error()
	}
	if answer.Error != "" {
		return answer.status(), answer.Error
	}
	if answer.EmailID == "" {
		return filtered, ""
	}
	return sent, answer.EmailID
}

// status decides what a failure means for the email.
func (r reply) status() status {
	switch {
	case r.Error == "delivery outcome unknown" || r.Outcome == "unknown":
		return unknown
	case r.Error == "service busy" || r.Error == "request in progress" || r.Error == "internal error":
		return again
	case r.Error == "email delivery failed" && r.Outcome == "": // a relay of an older version
		return unknown
	case r.Error == "email delivery failed" && !r.Permanent:
		return again
	default:
		return failed
	}
}

// sendAll sends all emails, so many at a time.
func sendAll(nc *nats.Conn, mailing string, addresses []string) []result {
	waiting, results := make(chan string), make(chan result)
	var workers sync.WaitGroup
	for range concurrency {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for to := range waiting {
				results <- send(nc, mailing, to)
			}
		}()
	}
	go func() {
		for _, to := range addresses {
			waiting <- to
		}
		close(waiting)
		workers.Wait()
		close(results)
	}()
	var all []result
	for one := range results {
		all = append(all, one)
	}
	return all
}

// read returns each address of a file once.
func read(path string) ([]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var addresses []string
	seen := map[string]bool{}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if to := strings.TrimSpace(lines.Text()); to != "" && !seen[to] {
			seen[to] = true
			addresses = append(addresses, to)
		}
	}
	return addresses, lines.Err()
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: send_many FILE MAILING")
	}
	addresses, err := read(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	url := os.Getenv("NATS_URL")
	if url == "" {
		url = nats.DefaultURL
	}
	options := []nats.Option{nats.MaxReconnects(-1)}
	if prefix := os.Getenv("NATS_INBOX_PREFIX"); prefix != "" {
		options = append(options, nats.CustomInboxPrefix(prefix))
	}
	nc, err := nats.Connect(url, options...)
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	counts := map[status]int{}
	for _, one := range sendAll(nc, os.Args[2], addresses) {
		counts[one.status]++
		if one.status != sent && one.status != filtered {
			fmt.Printf("%s: %s: %s\n", one.status, one.to, one.detail)
		}
	}
	fmt.Println(counts)
	if counts[sent]+counts[filtered] < len(addresses) {
		nc.Close()
		os.Exit(1)
	}
}
