/* Threads that share work: a batch picture by picture, or one picture layer by layer.
 *
 * Nobody is told beforehand what to do, and nobody is waited for who has not come: whoever is there takes the next
 * piece. So a thread that the system holds up costs its one piece, and a team whose threads never start is a slow one.
 */
#ifndef FRACBNN_TEAM_H
#define FRACBNN_TEAM_H

#include <stdint.h>

struct fb_team;

/* A team that shares a batch's pictures, or, with `pieces`, each picture's pieces of work; null if memory ran out. */
struct fb_team *fb_new_team(int pieces);

/* When all its threads have left. */
void fb_free_team(struct fb_team *team);

/* The next picture that the calling thread shall compute, after it computed `before`, at first -1. */
int64_t fb_next_picture(struct fb_team *team, int64_t before);

typedef void fb_work(void *context, int64_t piece);

/* Do `work` on pieces 0 to `pieces` - 1, together with who helps; returns when all are done. Of a team without pieces,
 * or no team, the calling thread does them all. One thread may call this. */
void fb_share(struct fb_team *team, int64_t pieces, fb_work *work, void *context);

/* Help with every fb_share until the team is dismissed. */
void fb_help(struct fb_team *team);

/* Let the helpers go. */
void fb_dismiss(struct fb_team *team);

#endif
